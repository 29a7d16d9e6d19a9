//! The house rules, as tests over the text of the house itself: who may import whom, how files begin and are named,
//! and that what is written down in several places is written the same in each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod source;
mod page;
mod imports;
mod files;
mod settings;
mod metrics;
mod logs;
mod promises;
