//! The subcommand `token new`: makes a bearer token, and the table that lets it in.

use std::{
    io::Write as _,
    time::{Duration, SystemTime},
};

use clap::{Arg, ArgAction, ArgMatches, error::ErrorKind};

use super::outcome::Result;
use crate::identity::{Role, Roles, Subject, TenantName, new_token};

/// Whose token is to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its tenant.
    pub tenant: TenantName,
    /// Its subject.
    pub subject: Subject,
    /// Its roles.
    pub roles: Roles,
    /// Its name in the log.
    pub name: Option<String>,
    /// For how long it is good; `None`: until it is taken out of the file.
    pub expires: Option<Duration>,
}

/// Prints the table to standard output, so that it can be appended to the file, and the token to standard error.
pub async fn new(asked: NewToken) -> Result {
    let NewToken { tenant, subject, roles, name, expires } = asked;
    let expires = expires.and_then(|life| SystemTime::now().checked_add(life));
    let made = new_token(name.as_deref(), &tenant, &subject, roles, expires)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", made.table)?;
    out.flush()?;
    Ok(writeln!(std::io::stderr(), "{}", made.token.expose())?)
}

/// The command line of it.
pub(super) fn command() -> clap::Command {
    let arg = |name: &'static str, value, help| Arg::new(name).long(name).value_name(value).help(help);
    let new = clap::Command::new("new").about("Make a token").after_help(MADE).next_line_help(true).args([
        arg("tenant", "NAME", "Tenant of the caller").required(true),
        arg("subject", "NAME", "Who of the tenant it is").required(true),
        arg("role", "ROLE", "tenant_admin or operator, in addition to user; may be repeated")
            .action(ArgAction::Append),
        arg("name", "NAME", "Name of the token in the log"),
        arg(
            "expires",
            "DURATION",
            "How long it is good, such as 90d\n[default: until it is taken out of the file]",
        ),
    ]);
    clap::Command::new("token")
        .about("Make a bearer token for the token file")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(new)
}

const MADE: &str = "\
    The table with the hash goes to standard output, the token itself to standard error, once:\n\n  \
    copilot-grpc token new --tenant acme --subject ann --expires 90d >>tokens.toml";

/// What was asked for.
///
/// # Errors
/// A value has a form that is not accepted.
pub(super) fn asked(args: &ArgMatches) -> std::result::Result<NewToken, clap::Error> {
    // clap takes none without one of them.
    let args = args.subcommand().map_or(args, |(_, args)| args);
    let text = |name| args.get_one::<String>(name).map(String::as_str);
    let roles = args.get_many::<String>("role").into_iter().flatten().map(|role| role.parse::<Role>());
    let expires = text("expires").map(humantime::parse_duration).transpose();
    Ok(NewToken {
        tenant: TenantName::parse(text("tenant").unwrap_or_default())
            .map_err(|error| wrong("tenant", &error))?,
        subject: Subject::parse(text("subject").unwrap_or_default())
            .map_err(|error| wrong("subject", &error))?,
        roles: roles.collect::<std::result::Result<_, _>>().map_err(|error| wrong("role", &error))?,
        name: text("name").map(String::from),
        expires: expires.map_err(|error| wrong("expires", &error))?,
    })
}

fn wrong(flag: &str, problem: &dyn std::fmt::Display) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("--{flag}: {problem}\n"))
}
