//! What is configured of this room. Where the values come from, it does not know.

use super::{certificates::Rule, jwt::Issuer, pattern::Pattern, tokens::TokenFile, unix::User};

/// The ways by which callers may show who they are. Every value has been checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file of bearer tokens.
    pub tokens: Option<TokenFile>,
    /// The issuers of JWTs, each once.
    pub issuers: Vec<Issuer>,
    /// Whose client certificates are; the first that fits counts.
    pub certificates: Vec<Rule>,
    /// The names of proxies that may tell who their clients are.
    pub trusted_proxies: Vec<Pattern>,
    /// Who the users of this machine are.
    pub users: Vec<User>,
}
