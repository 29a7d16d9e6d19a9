//! The binary: arguments in, exit code out.

use std::process::ExitCode;

use sse_bridge::cli::Cli;

/// 8 KB for an idle client against 12 with the system's (5,000 clients, when hyper still wrote their streams).
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::run()
}
