//! The command line, parsed.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, builder::ValueParser};
use zeroize::Zeroizing;

use super::{
    chat::Chat,
    config::Config,
    settings::{self, ConfigError, Environment, Mistake, Origin},
    store,
    token::{self, NewToken},
};

use crate::{
    copilot::Secret,
    grpc::client::{Target, UNIX},
};

/// A command with its arguments.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve gRPC. This is also what runs without a subcommand.
    Serve(Box<Config>),
    /// Talk with a model through a running server.
    Chat(Chat),
    /// Ask a running server for its health.
    Health {
        /// The server.
        server: Target,
        /// The gRPC service to ask about; empty for the whole server.
        service: String,
    },
    /// Print the contract's descriptor set.
    Protoset,
    /// Make a bearer token.
    Token(NewToken),
    /// Look after the store.
    Store(Box<Config>, store::Action),
    /// Run a program that must not outlive this one (internal).
    Guard {
        /// The program and its arguments; at least the program.
        args: Vec<OsString>,
    },
}

/// Why the command line gives no [`Command`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Help or version was asked for, or the command line is wrong. clap knows what to print, where, and the exit code.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The command line is right, but the configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Parses the command line; `args` begin with the program's name.
///
/// # Errors
/// [`Failure::Usage`] for `--help`, `--version` and what clap refuses; [`Failure::Config`] with every mistake in flags,
/// environment and file.
pub fn parse(args: impl Iterator<Item = OsString>, env: &impl Environment) -> Result<Command, Failure> {
    let matches = command_line().try_get_matches_from(args)?;
    let text = |args: &ArgMatches, name| args.get_one::<String>(name).cloned();
    Ok(match matches.subcommand() {
        Some(("chat", args)) => Command::Chat(Chat {
            server: server(args, env)?,
            session: text(args, "session"),
            model: text(args, "model"),
            prompt: args
                .get_many::<String>("prompt")
                .map(|words| words.cloned().collect::<Vec<_>>().join(" ")),
        }),
        Some(("health", args)) => {
            Command::Health { server: server(args, env)?, service: text(args, "service").unwrap_or_default() }
        }
        Some(("protoset", _)) => Command::Protoset,
        Some(("token", args)) => Command::Token(token::asked(args)?),
        Some(("store", args)) => {
            // clap takes none without one of them.
            let (name, args) = args.subcommand().unwrap_or(("check", args));
            let tenant = || text(args, "tenant").unwrap_or_default();
            let file = || args.get_one::<PathBuf>("file").cloned().unwrap_or_default();
            let action = match name {
                "export" => store::Action::Export {
                    tenant: tenant(),
                    session: text(args, "session").unwrap_or_default(),
                    file: file(),
                },
                "import" => store::Action::Import {
                    tenant: tenant(),
                    file: file(),
                    id: text(args, "as"),
                    replace: args.get_flag("replace"),
                },
                _ => store::Action::Check,
            };
            Command::Store(Box::new(Config::load(args, env)?), action)
        }
        Some(("guard", args)) => {
            Command::Guard { args: args.get_many("args").into_iter().flatten().cloned().collect() }
        }
        Some((_, flags)) => Command::Serve(Box::new(Config::load(flags, env)?)),
        None => Command::Serve(Box::new(Config::load(&matches, env)?)),
    })
}

fn command_line() -> clap::Command {
    let serve = clap::Command::new("serve").about("Serve gRPC (the default)").args(settings::args());
    let chat = clap::Command::new("chat").about("Talk with a model through a running server").args([
        server_arg(),
        Arg::new("session")
            .long("session")
            .value_name("ID")
            .help("Session to go on with\n[default: a new one, deleted at the end]"),
        Arg::new("model")
            .long("model")
            .value_name("NAME")
            .help("Model of a new session\n[default: the server's]"),
        Arg::new("prompt")
            .value_name("PROMPT")
            .num_args(0..)
            .help("The prompt; without one, lines are read from standard input"),
    ]);
    let chat = chat.args(tls_args());
    let health = clap::Command::new("health").about("Ask a running server for its health").args([
        server_arg(),
        Arg::new("service")
            .long("service")
            .value_name("NAME")
            .help("gRPC service to ask about\n[default: the whole server]"),
    ]);
    let health = health.args(tls_args());
    let protoset = clap::Command::new("protoset").about(ABOUT_PROTOSET).after_help(USES_OF_PROTOSET);
    let guard =
        clap::Command::new("guard").hide(true).about("Run a program that must not outlive this one").arg(
            Arg::new("args")
                .value_name("PROGRAM")
                .last(true)
                .num_args(1..)
                .required(true)
                .value_parser(ValueParser::os_string()),
        );
    clap::Command::new("copilot-grpc")
        .about("A gRPC service in front of the GitHub Copilot CLI")
        .version(env!("CARGO_PKG_VERSION"))
        // Otherwise `copilot-grpc --listen ADDR chat` would be accepted, and the address ignored.
        .args_conflicts_with_subcommands(true)
        .args(settings::args())
        .subcommands(
            [serve.after_help(SOURCES), chat, health, protoset, token::command(), store_command(), guard]
                .map(|command| command.next_line_help(true)),
        )
        .next_line_help(true)
        .after_help(SOURCES)
}

fn store_command() -> clap::Command {
    let file = |help: &'static str| {
        Arg::new("file").value_name("FILE").required(true).value_parser(ValueParser::path_buf()).help(help)
    };
    let tenant = || {
        let help = "The tenant whose it is\n[default: none, as of a server that asks nobody who he is]";
        Arg::new("tenant").long("tenant").value_name("NAME").help(help)
    };
    let check = clap::Command::new("check").about("Look for what does not fit together").after_help(CHECKED);
    let export = clap::Command::new("export").about("Write a session to a file").after_help(EXPORTED).args([
        Arg::new("session").value_name("SESSION_ID").required(true).help("The session"),
        tenant(),
        file("The file, which must not exist; - for standard output"),
    ]);
    let import =
        clap::Command::new("import").about("Make a session from a file").after_help(IMPORTED).args([
            file("The file that export has written; - for standard input"),
            tenant(),
            Arg::new("as").long("as").value_name("ID").help("Its id here\n[default: the one that it had]"),
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .help("Replace the session that has this id, if there is one"),
        ]);
    let commands = [check, export, import].map(|command| command.args(settings::args()).next_line_help(true));
    clap::Command::new("store")
        .about("Check the store, or take a session out of it or into it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands)
}

const CHECKED: &str = "\
    Give it the settings of the server. It reads every record, checks that each archived folder can be made whole, and that \
    folders on this disk and records belong together. Each problem is a line, and there is exit code 1 if there are any. \
    SQLite has one user at a time, so end the server first. Beside a server on PostgreSQL, a session that changes meanwhile may be \
    told as a problem.";

const EXPORTED: &str = "\
    Give it the settings of the server. The file has the session's record and its folder, with the whole conversation, and can \
    be read by its owner only. It has no credentials: whoever resumes the session elsewhere gives them anew. SQLite has one user at a time, \
    so end the server first.";

const IMPORTED: &str = "\
    Give it the settings of the server. The folder goes into the archive, or without one into the home of the first CLI that the \
    server starts; end the server first.";

const SOURCES: &str = "\
    A setting is taken from its flag, else from its environment variable, else from the TOML file \
    (the key is the flag's name, with _ for -), else from its default.\n\n\
    Sessions that name no provider or model get the operator's, from the CLI's own variables: COPILOT_MODEL, \
    COPILOT_PROVIDER_BASE_URL and its companions (see `copilot help providers`).";

const ABOUT_PROTOSET: &str =
    "Print the contract as a binary FileDescriptorSet, for grpcurl, buf curl and Envoy";

const USES_OF_PROTOSET: &str = "\
    It has copilot_grpc.v1, grpc.health.v1, the google.rpc types of error details and all that they import, so that tools \
    need neither proto files nor the server's reflection:\n\n  \
    copilot-grpc protoset >copilot-grpc.binpb\n  \
    grpcurl -protoset copilot-grpc.binpb list\n  \
    buf curl --schema copilot-grpc.binpb --list-methods\n\n\
    For Envoy's gRPC-JSON transcoder it is the file of `proto_descriptor`.";

fn server_arg() -> Arg {
    let variable = settings::SERVER_VARIABLE;
    let help = format!("The server to ask\n[default: {DEFAULT_SERVER}] [env: {variable}]");
    Arg::new("server").long("server").value_name("URL").help(help)
}

/// The files by which a client and a server at `https://` know each other.
fn tls_args() -> [Arg; 3] {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(ValueParser::path_buf()).help(help)
    };
    [
        file(
            "ca-file",
            "PEM file with the CAs of a server at https://\n[default: those that the machine trusts]",
        ),
        file("cert-file", "PEM file with the certificate to show to it\n[default: none]")
            .requires("key-file"),
        file("key-file", "PEM file with the key of --cert-file\n[default: none]").requires("cert-file"),
    ]
}

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

fn server(args: &ArgMatches, env: &impl Environment) -> Result<Target, ConfigError> {
    let file = |name| args.get_one::<PathBuf>(name).cloned();
    Ok(Target {
        server: server_url(args, env)?,
        ca_file: file("ca-file"),
        certificate: file("cert-file").zip(file("key-file")),
        token: token(env),
    })
}

/// The bearer token of a client.
fn token(env: &impl Environment) -> Option<Secret> {
    let text = Zeroizing::new(env.var(settings::TOKEN_VARIABLE)?.to_string_lossy().trim().to_owned());
    (!text.is_empty()).then(|| Secret::new(text.as_str()))
}

fn server_url(args: &ArgMatches, env: &impl Environment) -> Result<String, ConfigError> {
    let variable = || env.var(settings::SERVER_VARIABLE).filter(|url| !url.is_empty());
    let (origin, url) = if let Some(url) = args.get_one::<String>("server") {
        (Origin::Flag("--server".into()), url.clone())
    } else if let Some(url) = variable() {
        (Origin::Variable(settings::SERVER_VARIABLE.into()), url.to_string_lossy().into_owned())
    } else {
        return Ok(DEFAULT_SERVER.into());
    };
    match url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(url),
        None if url.strip_prefix(UNIX).is_some_and(|path| !path.is_empty()) => Ok(url),
        _ => {
            let problem = format!("write a URL such as {DEFAULT_SERVER}, or {UNIX}/path of a Unix socket");
            Err(Mistake::new(origin, problem).of(&url).into())
        }
    }
}
