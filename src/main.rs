//! The binary: arguments in, exit code out.

use std::process::ExitCode;

use sse_bridge::cli::Cli;

/// After waves of clients it holds 49 MiB instead of 55 with the system's; else they are alike (benches/README.md).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::run()
}
