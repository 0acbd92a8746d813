//! The program: parses the command line and hands it to the composition root.

use std::process::ExitCode;

use clap::Parser;
use tidewatch::{app, cli::Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match app::main(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidewatch: {}", app::log::plain(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}
