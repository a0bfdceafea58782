//! The binary `isthmus`.

use std::process::ExitCode;

fn main() -> ExitCode {
    isthmus::cli::main()
}
