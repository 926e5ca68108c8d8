//! The `tidemill` program.

use std::process::ExitCode;

/// The system's allocator gives large blocks back to the kernel at once and asks for them again with the next epoch:
/// the kernel then clears their pages each time, which took a sixth of a run (`benches/README.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A query is planned on this thread, and a large one needs more stack than a process is given.
    let main = std::thread::Builder::new().name("main".to_owned()).stack_size(tidemill::sql::STACK_BYTES);
    match main.spawn(tidemill::cli::main).map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // It has panicked, and has said so.
        Ok(Err(_)) => ExitCode::from(101),
        Err(error) => {
            eprintln!("error: cannot start a thread: {error}");
            ExitCode::FAILURE
        }
    }
}
