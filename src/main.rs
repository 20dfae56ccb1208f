//! The program `copilot-grpc`: parses the command line and runs the command. All else is in the library.

use std::process::ExitCode;

use copilot_grpc::{app, backend::process::guard};

use app::command::{Command, parse};

/// The allocator of the whole program. Events are allocated by the thread that reads the CLI and freed by the one that writes
/// to the caller, which mimalloc handles well. By its feature `override` it serves C code, too: rows of SQLite go the same way.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match parse(std::env::args_os(), &app::settings::Process) {
        Ok(Command::Serve(config)) => app::run(app::serve(*config)),
        Ok(Command::Chat(chat)) => app::run(app::chat::chat(chat)),
        Ok(Command::Health { server, service }) => app::run(app::health::check(server, service)),
        Ok(Command::Store(config, action)) => app::run(app::store::run(*config, action)),
        Ok(Command::Token(asked)) => app::run(app::token::new(asked)),
        Ok(Command::Protoset) => app::run(app::protoset()),
        // Not async: it outlives whatever happens to the facade, and a runtime would be more that can go wrong.
        Ok(Command::Guard { args }) => guard::run(args.into_iter()),
        Err(failure) => app::explain(&failure),
    }
}
