//! The header in which a proxy tells the certificate of its client: `x-forwarded-client-cert`. Pure.
//!
//! Elements are separated by commas, their pairs by semicolons, and a value may stand in double quotes with `\"` in them (Envoy,
//! "HTTP header manipulation: x-forwarded-client-cert"). Each proxy adds an element at the end. So the last element is the one that
//! the trusted proxy has written; what stands before it, a client may have written. Whether the connection may set the header at
//! all, `identities` decides.
//!
//! Of the element the names count: `URI` and `DNS`, each of which may come several times. `Subject`, `By`, `Cert` and `Chain` are
//! left alone.

use super::{digest::Digest, presented::CertificateNames, refused::Refused};

/// The longest header that is read, in bytes.
const MAX_HEADER: usize = 16 << 10;

const MALFORMED: Refused = Refused::Malformed("the x-forwarded-client-cert header is not in Envoy's form");

/// The names of the certificate that the last element tells.
///
/// # Errors
/// [`Refused::Malformed`] for any other form, and for an element without names.
pub(super) fn names(header: &[u8]) -> Result<CertificateNames, Refused> {
    if header.len() > MAX_HEADER {
        return Err(Refused::Malformed("the x-forwarded-client-cert header is longer than 16 KiB"));
    }
    let text = std::str::from_utf8(header).map_err(|_| MALFORMED)?;
    let last = split(text, ',').ok_or(MALFORMED)?.pop().ok_or(MALFORMED)?;
    let mut names = CertificateNames::default();
    for pair in split(last, ';').ok_or(MALFORMED)? {
        let (key, value) = pair.trim().split_once('=').ok_or(MALFORMED)?;
        let value = unquoted(value).ok_or(MALFORMED)?;
        let of = match key.to_ascii_lowercase().as_str() {
            "uri" => &mut names.uri,
            "dns" => &mut names.dns,
            "hash" if names.sha256.is_none() => {
                names.sha256 = Some(Digest::from_hex(&value).ok_or(MALFORMED)?.bytes());
                continue;
            }
            "by" | "cert" | "chain" | "subject" => continue,
            _ => return Err(MALFORMED),
        };
        // Envoy writes `URI=` for a certificate that has none.
        if !value.is_empty() {
            of.push(value);
        }
    }
    let has_names = !names.uri.is_empty() || !names.dns.is_empty();
    if has_names {
        Ok(names)
    } else {
        Err(Refused::Malformed("the x-forwarded-client-cert header names nobody"))
    }
}

/// The parts of a text between separators that are not in quotes; `None` if a quote has no end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut in_quotes, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_quotes => is_escaped = true,
            '"' => in_quotes = !in_quotes,
            c if c == separator && !in_quotes => {
                parts.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!in_quotes).then_some(parts)
}

/// A value without its quotes; `None` if quotes stand within it.
fn unquoted(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let (mut text, mut rest) = (String::new(), inner.chars());
    loop {
        match rest.next()? {
            '\\' => text.push(rest.next()?),
            '"' => return rest.next().is_none().then_some(text),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688";

    #[test]
    fn only_the_last_element_counts() {
        let check = |header: &str, uri: &[&str], dns: &[&str]| {
            let names = names(header.as_bytes()).unwrap();
            assert_eq!(
                (&*names.uri, &*names.dns),
                (
                    &*uri.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
                    &*dns.iter().map(|s| s.to_string()).collect::<Vec<_>>()
                ),
                "{header}"
            );
        };
        check("URI=spiffe://a/b", &["spiffe://a/b"], &[]);
        check("URI=spiffe://evil/admin,URI=spiffe://a/b", &["spiffe://a/b"], &[]);
        // Envoy's own example.
        let envoy = format!(
            "By=http://frontend.lyft.com;Hash={HASH};Subject=\"/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client\";\
             URI=http://testclient.lyft.com;DNS=lyft.com;DNS=www.lyft.com"
        );
        check(&envoy, &["http://testclient.lyft.com"], &["lyft.com", "www.lyft.com"]);
        check(r#"Subject="CN=a,URI=spiffe://evil/x;DNS=evil";DNS=a.b"#, &[], &["a.b"]);
        check(r#"Subject="a\",DNS=evil,\"";DNS="a.b""#, &[], &["a.b"]);
        check("DNS=evil,By=x;uri=;dns=a.b", &[], &["a.b"]);
        assert!(names(envoy.as_bytes()).unwrap().sha256.is_some_and(|hash| hash[0] == 0x46));
    }

    #[test]
    fn another_form_lets_nobody_in() {
        let long = format!("DNS={}", "a".repeat(MAX_HEADER));
        let bad = [
            "",
            ",",
            "DNS=a,",
            "DNS",
            "DNS=a;;",
            "DNS=\"a",
            "DNS=a\"b",
            "DNS=\"a\"b",
            "Subject=\"CN=a\"",
            "DNS=a,Subject=\"\"",
            "X=1;DNS=a",
            "Hash=zz;DNS=a",
            "URI=",
            &long,
        ];
        for bad in bad {
            assert!(matches!(names(bad.as_bytes()), Err(Refused::Malformed(_))), "{bad:.40}");
        }
        assert!(names(b"DNS=\xff").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_clients_write_before_never_counts(before in any::<Vec<u8>>(), value in r#"[a-z,;="\\]{0,40}"#) {
            let _ = names(&before);
            // A proxy quotes what it is told: nothing in the value ends it.
            let quoted = value.replace('\\', r"\\").replace('"', r#"\""#);
            let header = format!("DNS=x,Subject=\"{quoted}\";URI=spiffe://a/b");
            prop_assert_eq!(names(header.as_bytes()).unwrap().uri, ["spiffe://a/b"]);
        }
    }
}
