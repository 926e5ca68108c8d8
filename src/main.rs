//! The `tidemill` program.

use std::process::ExitCode;

/// The system's allocator gives large blocks back to the kernel at once and asks for them again with the next epoch:
/// the kernel then clears their pages each time, which took a sixth of a run (`benches/README.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidemill::cli::main()
}
