//! What servers say to each other beside the calls that they forward, in headers that no caller sees.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    copilot::Secret,
    grpc::{
        access::Access,
        status::{CURSOR, PASSING},
    },
    session::Peer,
    store::Incarnation,
};

/// The header, or trailer, that a call ends with.
pub(super) const GRPC_STATUS: &str = "grpc-status";

/// For whom a forwarded call is.
const TO: HeaderName = HeaderName::from_static("copilot-grpc-to");

/// The token by which servers know each other.
const TOKEN: HeaderName = HeaderName::from_static("copilot-grpc-token");

/// The id of a forwarded call.
const CALL: HeaderName = HeaderName::from_static("copilot-grpc-call");

/// For whom a forwarded call is made.
const CALLER: HeaderName = HeaderName::from_static("copilot-grpc-caller");

/// Who has answered a forwarded call.
const FROM: HeaderName = HeaderName::from_static("copilot-grpc-from");

/// Why a forwarded call was not taken.
const REFUSED: HeaderName = HeaderName::from_static("copilot-grpc-refused");

/// Why a forwarded call was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is for another server, or for an earlier process of this one.
    NotForUs,
    /// Its token is not the cluster's.
    BadToken,
}

impl Refusal {
    const ALL: [Self; 2] = [Self::NotForUs, Self::BadToken];

    fn name(self) -> &'static str {
        match self {
            Self::NotForUs => "not-for-us",
            Self::BadToken => "bad-token",
        }
    }
}

/// Addresses a request to a server.
pub(super) fn address(headers: &mut HeaderMap, to: &Peer, token: Option<&Secret>) {
    headers.insert(TO, name(&to.incarnation));
    if let Some(mut token) = token.and_then(|token| HeaderValue::from_str(token.expose()).ok()) {
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
}

/// Names a forwarded call.
pub(super) fn name_call(headers: &mut HeaderMap, call_id: &str) {
    if let Ok(call_id) = HeaderValue::from_str(call_id) {
        headers.insert(CALL, call_id);
    }
}

/// Takes the id of a forwarded call from its request.
pub(super) fn call_id(headers: &mut HeaderMap) -> Option<String> {
    Some(headers.remove(CALL)?.to_str().ok()?.to_owned())
}

/// Says for whom a forwarded call is made.
pub(super) fn speak_for(headers: &mut HeaderMap, access: &Access) {
    if let Ok(mut written) = HeaderValue::from_str(&access.write()) {
        written.set_sensitive(true);
        headers.insert(CALLER, written);
    }
}

/// Takes from a forwarded request for whom it is made; `None`: it does not say.
pub(super) fn spoken_for(headers: &mut HeaderMap) -> Option<Access> {
    Access::read(headers.remove(CALLER)?.as_bytes())
}

/// Whether a request was forwarded.
pub(in crate::grpc) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(TO)
}

/// Checks a forwarded request, and takes from it what is for us alone.
pub(super) fn accept(
    headers: &mut HeaderMap,
    this: &Incarnation,
    token: Option<&Secret>,
) -> Result<(), Refusal> {
    let (to, shown) = (headers.remove(TO), headers.remove(TOKEN));
    let shown = shown.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
    let expected = token.map(|token| token.expose().as_bytes()).unwrap_or_default();
    if !is_same(shown, expected) {
        return Err(Refusal::BadToken);
    }
    if to != Some(name(this)) { Err(Refusal::NotForUs) } else { Ok(()) }
}

/// Compares in a time that does not tell where two texts differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differs = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differs == 0
}

/// Signs an answer to a forwarded call.
pub(super) fn sign(headers: &mut HeaderMap, this: &Incarnation, refusal: Option<Refusal>) {
    headers.insert(FROM, name(this));
    if let Some(refusal) = refusal {
        headers.insert(REFUSED, HeaderValue::from_static(refusal.name()));
    }
}

/// Who has signed an answer, as its log may tell; `None`: it is no server of ours.
pub(super) fn signature(headers: &HeaderMap) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(FROM)?.as_bytes()).into_owned())
}

/// Why a forwarded call was not taken, if it was not.
pub(super) fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    let said = headers.get(REFUSED)?;
    Refusal::ALL.into_iter().find(|refusal| said == refusal.name())
}

/// Whether a call is to be tried again, by the headers or trailers of its answer.
pub(super) fn is_passing(headers: &HeaderMap) -> bool {
    headers.contains_key(PASSING)
}

/// Takes out what is not for callers.
pub(super) fn clean(headers: &mut HeaderMap) {
    for header in [FROM.as_str(), REFUSED.as_str(), PASSING, CURSOR] {
        headers.remove(header);
    }
}

/// A process as headers have it. Names are of ASCII, and what is not does not match anything.
fn name(incarnation: &Incarnation) -> HeaderValue {
    let text = format!("{}/{}", incarnation.node, incarnation.number);
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(node: &str, number: i64) -> Incarnation {
        Incarnation { node: node.into(), number }
    }

    #[test]
    fn a_forwarded_call_is_taken_by_whom_it_is_for_and_with_the_clusters_token() {
        let token = Secret::new("the cluster's token");
        let check = |to: Incarnation, shown: Option<&Secret>, token: Option<&Secret>, expected| {
            let mut headers = HeaderMap::new();
            address(&mut headers, &Peer { incarnation: to, address: String::new() }, shown);
            assert!(is_forwarded(&headers));
            assert_eq!(accept(&mut headers, &process("a", 2), token), expected);
            assert!(headers.is_empty(), "{headers:?}");
        };
        check(process("a", 2), None, None, Ok(()));
        check(process("a", 2), Some(&token), Some(&token), Ok(()));
        check(process("a", 1), Some(&token), Some(&token), Err(Refusal::NotForUs));
        check(process("b", 2), None, None, Err(Refusal::NotForUs));
        check(process("a", 2), None, Some(&token), Err(Refusal::BadToken));
        check(process("a", 2), Some(&token), None, Err(Refusal::BadToken));
        let other = Secret::new("the cluster's tokeN");
        check(process("a", 2), Some(&other), Some(&token), Err(Refusal::BadToken));
    }

    #[test]
    fn an_answer_tells_who_gave_it_and_a_caller_sees_nothing_of_that() {
        let mut headers = HeaderMap::new();
        assert_eq!(signature(&headers), None);
        sign(&mut headers, &process("a", 1), Some(Refusal::NotForUs));
        assert_eq!(signature(&headers).as_deref(), Some("a/1"));
        assert_eq!(refusal(&headers), Some(Refusal::NotForUs));
        clean(&mut headers);
        assert!(headers.is_empty());
    }
}
