//! The `tidemill` program.

use std::process::ExitCode;

/// Rows come and go in large blocks on all threads, which glibc's allocator gives back to the system and
/// faults in again: some 10 % of the CPU time of a run, measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::cli::main()
}
