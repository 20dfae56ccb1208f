//! The contract and all that its users need as one descriptor set, for tools that read no proto files.
//!
//! A status carries messages of `google.rpc`, which the contract does not import, and health is a service of its own: without
//! their descriptors grpcurl shows an error's details as bytes, and Envoy's transcoder drops them.
//!
//! Tests: in this file, and `tests/integration/packaging.rs`.

use std::collections::HashMap;

use prost::{DecodeError, Message as _};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::pb::DESCRIPTORS;

/// The sets that are merged. The contract's comes first: of a file that several sets have the first is taken, and these have
/// comments.
const SETS: [&[u8]; 3] =
    [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET];

/// The encoded `FileDescriptorSet` of the contract, `google.rpc`, `grpc.health.v1` and all that they import: each file once,
/// after those that it imports.
///
/// # Errors
/// If one of the sets that are compiled in is broken.
pub fn encoded() -> Result<Vec<u8>, DecodeError> {
    let sets: Result<Vec<_>, _> = SETS.into_iter().map(FileDescriptorSet::decode).collect();
    let mut sets = sets?;
    sets.iter_mut().flat_map(|set| &mut set.file).for_each(put_in_folder);
    Ok(FileDescriptorSet { file: merged(sets) }.encode_to_vec())
}

/// Moves a file that is in no folder to the folder of its package, such as `google/rpc/status.proto` for `status.proto`: so it
/// is known everywhere, and under two names it could not be used together with other descriptor sets. No other file imports
/// these.
fn put_in_folder(file: &mut FileDescriptorProto) {
    if !file.name().contains('/') {
        file.name = Some(format!("{}/{}", file.package().replace('.', "/"), file.name()));
    }
}

/// The files of all sets, each once, in their order except that imports go before the file that has them: readers such as
/// protobuf's C++ `DescriptorPool` add one file after the other, and refuse one whose imports they do not know.
fn merged(sets: Vec<FileDescriptorSet>) -> Vec<FileDescriptorProto> {
    let mut names = Vec::new();
    let mut files = HashMap::new();
    for file in sets.into_iter().flat_map(|set| set.file) {
        let name = file.name().to_owned();
        files.entry(name.clone()).or_insert_with(|| {
            names.push(name);
            file
        });
    }
    let mut merged = Vec::with_capacity(names.len());
    for name in &names {
        take(name, &mut files, &mut merged);
    }
    merged
}

/// Moves a file to the end of `merged`, after the files that it imports, unless it is there.
fn take(name: &str, files: &mut HashMap<String, FileDescriptorProto>, merged: &mut Vec<FileDescriptorProto>) {
    // Taken out first, so that even files that import each other come to an end.
    if let Some(file) = files.remove(name) {
        for import in &file.dependency {
            take(import, files, merged);
        }
        merged.push(file);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn set() -> Vec<FileDescriptorProto> {
        FileDescriptorSet::decode(&*encoded().unwrap()).unwrap().file
    }

    fn file(name: &str, imports: &[&str]) -> FileDescriptorProto {
        FileDescriptorProto {
            name: Some(name.into()),
            dependency: imports.iter().map(|&import| import.into()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_set_has_all_that_is_served_and_what_its_errors_carry() {
        let set = set();
        let names = |file: &FileDescriptorProto| {
            let services = file.service.iter().map(|service| service.name().to_owned());
            let messages = file.message_type.iter().map(|message| message.name().to_owned());
            let names: Vec<_> = services.chain(messages).collect();
            names.into_iter().map(|name| format!("{}.{name}", file.package())).collect::<Vec<_>>()
        };
        let all: Vec<_> = set.iter().flat_map(names).collect();
        for name in [
            "copilot_grpc.v1.CopilotService",
            "copilot_grpc.v1.TurnFailure",
            "grpc.health.v1.Health",
            "google.rpc.Status",
            "google.rpc.ErrorInfo",
            "google.rpc.RetryInfo",
            "google.rpc.BadRequest",
            "google.protobuf.Any",
            "google.protobuf.Duration",
            "google.protobuf.FieldMask",
            "google.protobuf.Timestamp",
        ] {
            assert_eq!(all.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        for bytes in SETS {
            for mut file in FileDescriptorSet::decode(bytes).unwrap().file {
                put_in_folder(&mut file);
                assert!(set.iter().any(|other| other.name() == file.name()), "{} is not there", file.name());
            }
        }
    }

    #[test]
    fn files_have_the_names_by_which_they_are_known_elsewhere() {
        let set = set();
        for name in [
            "copilot_grpc/v1/copilot_service.proto",
            "google/protobuf/any.proto",
            "google/rpc/error_details.proto",
            "google/rpc/status.proto",
            "grpc/health/v1/health.proto",
        ] {
            assert!(set.iter().any(|file| file.name() == name), "{name}");
        }
    }

    #[test]
    fn no_file_and_no_message_is_there_twice() {
        let set = set();
        let (mut files, mut messages) = (HashSet::new(), HashSet::new());
        for file in &set {
            assert!(files.insert(file.name()), "{}", file.name());
            for message in &file.message_type {
                let name = (file.package(), message.name());
                assert!(messages.insert(name), "{name:?} of {}", file.name());
            }
        }
    }

    #[test]
    fn every_file_comes_after_what_it_imports() {
        let mut before = HashSet::new();
        let set = set();
        for file in &set {
            for import in &file.dependency {
                assert!(before.contains(import.as_str()), "{} imports {import}", file.name());
            }
            before.insert(file.name());
        }
    }

    /// Where two sets have a well-known type, one is left out: nothing may be lost by that.
    #[test]
    fn a_file_that_several_sets_have_says_the_same_in_all() {
        let mut known = HashMap::new();
        for bytes in SETS {
            for file in FileDescriptorSet::decode(bytes).unwrap().file {
                let fields = |message: &prost_types::DescriptorProto| -> Vec<_> {
                    let fields = message.field.iter();
                    fields.map(|field| (field.name().to_owned(), field.number(), field.r#type())).collect()
                };
                let says: Vec<_> = file
                    .message_type
                    .iter()
                    .map(|message| (message.name().to_owned(), fields(message)))
                    .collect();
                let name = file.name().to_owned();
                assert_eq!(*known.entry(name.clone()).or_insert_with(|| says.clone()), says, "{name}");
            }
        }
    }

    #[test]
    fn files_are_sorted_by_their_imports_and_kept_in_order_otherwise() {
        let check = |sets: &[&[FileDescriptorProto]], expected: &[&str]| {
            let sets = sets.iter().map(|files| FileDescriptorSet { file: files.to_vec() }).collect();
            let names: Vec<_> = merged(sets).iter().map(|file| file.name().to_owned()).collect();
            assert_eq!(names, expected);
        };
        check(&[], &[]);
        check(&[&[file("b", &[]), file("a", &[])]], &["b", "a"]);
        check(&[&[file("a", &["b", "c"]), file("b", &["c"]), file("c", &[])]], &["c", "b", "a"]);
        // The import is in another set, and twice.
        check(
            &[&[file("a", &["c"])], &[file("c", &[])], &[file("c", &[]), file("b", &["c"])]],
            &["c", "a", "b"],
        );
        // No compiler accepts files that import each other; here they must at least not loop for ever.
        check(&[&[file("a", &["b"]), file("b", &["a"])]], &["b", "a"]);
    }
}
