//! Parses MIME types: `type/subtype`, in any case, and perhaps parameters after it (RFC 9110, section 8.3.1).

/// The type as the CLI needs it: in lower case, and without parameters if it is an image's. Of `IMAGE/PNG` or `image/png; q=1`
/// the CLI shows the model nothing, without a word (observed). `None`: the text is no MIME type.
pub(super) fn parse(text: &str) -> Option<String> {
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let essence = essence.trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    if !is_token(kind) || !is_token(subtype) || !parameters.split(';').all(is_parameter) {
        return None;
    }
    let parameters = parameters.trim();
    Some(if kind == "image" || parameters.is_empty() { essence } else { format!("{essence};{parameters}") })
}

/// Whether a parsed type is that of an image.
pub(super) fn is_image(parsed: &str) -> bool {
    parsed.starts_with("image/")
}

/// Whether the text is `name=value`. A quoted value with a semicolon in it is refused: no type that the agent knows has one.
fn is_parameter(text: &str) -> bool {
    let Some((name, value)) = text.trim().split_once('=') else { return text.trim().is_empty() };
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    is_token(name) && (is_token(value) || quoted.is_some_and(|value| !value.contains(char::is_control)))
}

fn is_token(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mime_types_are_parsed_and_not_compared() {
        let check =
            |text: &str, expected: &str| assert_eq!(parse(text).as_deref(), Some(expected), "{text:?}");
        check("image/png", "image/png");
        check("IMAGE/PNG", "image/png");
        check("Image/Svg+Xml", "image/svg+xml");
        check("image/jpeg; q=1", "image/jpeg");
        check(" image/webp ;charset=\"x y\"", "image/webp");
        check("image/gif;", "image/gif");
        check("TEXT/Plain; charset=UTF-8", "text/plain;charset=UTF-8");
        check("application/vnd.api+json", "application/vnd.api+json");
        let wrong = ["", "/", "image/", "/png", "image", "image/p ng", "image/png/x", "a b/c", "image/png;q"];
        for wrong in wrong.into_iter().chain(["image/\u{e9}", "image/png\u{0}", "text/plain;a=\"\n\""]) {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert!(is_image("image/png") && !is_image("imagery/png"));
    }
}
