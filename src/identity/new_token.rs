//! Makes a bearer token, and the table that lets it in.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use toml::Value;
use zeroize::Zeroizing;

use super::{
    caller::{Role, Roles, Subject, TenantName},
    digest::Digest,
};
use crate::copilot::Secret;

/// A token that has been made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The token, for its caller. Nobody can find it out again.
    pub token: Secret,
    /// The `[[token]]` table, for the token file.
    pub table: String,
}

/// What all tokens begin with, by which scanners for secrets find those that have leaked.
const PREFIX: &str = "cgt_";

/// Makes a token of 256 random bits for a subject. `expires` is cut to whole seconds.
///
/// # Errors
/// The system has no random numbers.
pub fn new_token(
    name: Option<&str>,
    tenant: &TenantName,
    subject: &Subject,
    roles: Roles,
    expires: Option<SystemTime>,
) -> Result<NewToken, String> {
    let mut random = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *random).map_err(|_| "the system has no random numbers".to_owned())?;
    let text = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random));
    let token = Secret::new([PREFIX, &text].concat());
    let text = |text: &str| Value::String(text.to_owned()).to_string();
    let roles: Vec<_> = Role::ALL.into_iter().filter(|role| roles.has(*role)).map(Role::as_str).collect();
    let lines = [
        name.map(|name| format!("name = {}", text(name))),
        Some(format!("sha256 = {}", text(&Digest::of(token.expose().as_bytes()).to_hex()))),
        Some(format!("tenant = {}", text(tenant.as_str()))),
        Some(format!("subject = {}", text(subject.as_str()))),
        Some(format!("roles = {}", Value::from(roles))),
        expires
            .map(|time| format!("expires = {}", text(&humantime::format_rfc3339_seconds(time).to_string()))),
    ];
    let lines: Vec<_> = lines.into_iter().flatten().collect();
    Ok(NewToken { token, table: format!("[[token]]\n{}\n", lines.join("\n")) })
}
