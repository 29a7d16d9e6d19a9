//! Who is let in: what a token has to be, where it may stand, and what each refusal says.

pub mod minting;
mod refused;
mod accepted;
mod key_server;
mod commands;
