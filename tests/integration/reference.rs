//! The reference lists all settings, reasons, RPCs and options of the SDKs, as the code has them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers as well")]

use std::fs;

use copilot_grpc::{
    app::settings::settings,
    grpc::{DESCRIPTORS, pb::ErrorReason},
};
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// A file of the repository.
fn file(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The cells of the page's table row that begins with `` `name` ``.
fn row(page: &str, name: &str) -> Vec<String> {
    let (text, beginning) = (file(page), format!("| `{name}` |"));
    let mut rows = text.lines().filter(|line| line.starts_with(&beginning));
    let row = rows.next().unwrap_or_else(|| panic!("{name} has no row in {page}"));
    assert_eq!(rows.next(), None, "{name} has two rows in {page}");
    row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

/// Every reason but the unspecified one, with its name as callers see it. The numbers may have gaps; they stay below 1000.
fn reasons() -> impl Iterator<Item = &'static str> {
    (1..1000)
        .filter_map(|number| ErrorReason::try_from(number).ok())
        .map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_"))
}

#[test]
fn every_setting_is_listed_with_its_flag_variable_and_default() {
    for setting in settings() {
        let expected = [
            setting.key.into(),
            setting.flag(),
            setting.variable(),
            setting.default.unwrap_or("none").into(),
        ];
        assert_eq!(row("docs/reference/settings.md", setting.key)[..4], expected);
    }
}

/// The gRPC codes in a text: its words in capital letters.
fn codes(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.len() > 3).collect()
}

#[test]
fn every_reason_is_listed_with_the_codes_that_the_contract_gives_it() {
    let contract = file("proto/copilot_grpc/v1/error_reason.proto");
    for reason in reasons() {
        // The first sentence of the comment above a value names its codes.
        let (above, _) = contract.split_once(&format!("  ERROR_REASON_{reason} = ")).unwrap();
        let (sentence, _) = above.rsplit("\n\n").next().unwrap().split_once('.').unwrap();
        assert!(!codes(sentence).is_empty(), "{reason}: {sentence}");
        assert_eq!(codes(&row("docs/reference/errors.md", reason)[1]), codes(sentence), "{reason}");
    }
}

#[test]
fn no_reason_is_listed_that_there_is_not() {
    let page = file("docs/reference/errors.md");
    let (_, table) = page.split_once("| reason | code |").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let listed = rows.filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0));
    let (mut listed, mut known) = (listed.collect::<Vec<_>>(), reasons().collect::<Vec<_>>());
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

#[test]
fn every_rpc_is_listed() {
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let methods: Vec<_> = services.flat_map(|service| &service.method).map(|method| method.name()).collect();
    assert!(methods.contains(&"CreateSession"), "{methods:?}");
    for method in methods {
        assert!(!row("docs/reference/rpcs.md", method)[1].is_empty(), "{method}");
    }
}

#[test]
fn the_table_of_the_sdks_options_has_every_field_of_a_new_session_and_of_a_prompt() {
    let table = file("docs/reference/sdk-options.md");
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let messages: Vec<_> = descriptors.file.iter().flat_map(|file| &file.message_type).collect();
    for name in ["CreateSessionRequest", "SendAndWaitRequest", "Prompt"] {
        let message = messages.iter().find(|message| message.name() == name).unwrap();
        for field in &message.field {
            assert!(table.contains(&format!("`{}`", field.name())), "{name}.{} is not there", field.name());
        }
    }
}

#[test]
fn the_readme_names_the_toolchain_that_is_needed() {
    assert!(
        file("README.md").contains(&format!("Rust toolchain, {} or newer", env!("CARGO_PKG_RUST_VERSION")))
    );
}
