//! No request makes us panic, whatever the method, and what is wrong with one is told with its fields.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use copilot_grpc::grpc::{DESCRIPTORS, fuzzing::read};
use libfuzzer_sys::fuzz_target;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor,
    Value, prost::Message as _,
};
use tonic::Code;
use tonic_types::StatusExt as _;

static METHODS: LazyLock<Vec<MethodDescriptor>> = LazyLock::new(|| {
    let contract = DescriptorPool::decode(DESCRIPTORS).unwrap();
    contract.get_service_by_name("copilot_grpc.v1.CopilotService").unwrap().methods().collect()
});

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok((method, body)) = request(&mut input) else { return };
    // What is too deep or no text tonic refuses.
    let Ok(Err(refused)) = read(&method, &body) else { return };
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.get_details_error_info().is_some(), "{refused:?}");
    assert!(refused.get_details_bad_request().is_some_and(|told| !told.field_violations.is_empty()));
});

fn request(input: &mut Unstructured<'_>) -> Result<(String, Vec<u8>)> {
    let method = input.choose(&METHODS)?;
    Ok((method.name().to_owned(), message(&method.input(), input, DEPTH)?.encode_to_vec()))
}

/// How deep messages go into each other.
const DEPTH: usize = 12;

fn message(of: &MessageDescriptor, input: &mut Unstructured<'_>, depth: usize) -> Result<DynamicMessage> {
    let mut message = DynamicMessage::new(of.clone());
    for field in of.fields() {
        let goes_on = depth > 0 || !matches!(field.kind(), Kind::Message(_));
        if goes_on && !input.is_empty() && input.ratio(1, 3)? {
            message.set_field(&field, value(&field, input, depth)?);
        }
    }
    Ok(message)
}

fn value(field: &FieldDescriptor, input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    let count = input.int_in_range(0..=5)?;
    if field.is_map() {
        let entry = field.kind().as_message().unwrap().clone();
        let each = (0..count)
            .map(|_| Ok((MapKey::String(text(input)?), one(&entry.map_entry_value_field(), input, depth)?)));
        return Ok(Value::Map(each.collect::<Result<_>>()?));
    }
    if field.is_list() {
        return Ok(Value::List((0..count).map(|_| one(field, input, depth)).collect::<Result<_>>()?));
    }
    one(field, input, depth)
}

fn one(field: &FieldDescriptor, input: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match field.kind() {
        Kind::Double => Value::F64(input.arbitrary()?),
        Kind::Float => Value::F32(input.arbitrary()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(input.arbitrary()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(input.arbitrary()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(input.arbitrary()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(input.arbitrary()?),
        Kind::Bool => Value::Bool(input.arbitrary()?),
        Kind::String => Value::String(text(input)?),
        Kind::Bytes => Value::Bytes(input.arbitrary::<Vec<u8>>()?.into()),
        Kind::Enum(_) => Value::EnumNumber(input.int_in_range(-1..=6)?),
        Kind::Message(of) => Value::Message(message(&of, input, depth.saturating_sub(1))?),
    })
}

/// Words that mean something, and any others.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    const WORDS: &[&str] = &[
        "",
        " ",
        "a",
        "s",
        "azure",
        "openai",
        "https://u@h/v1",
        "http://h",
        "/work",
        "../x",
        "builtin:*",
        "type",
        "object",
        "string",
        "$ref",
        "#",
        "#/$defs/a",
        "$defs",
        "anyOf",
        "allOf",
        "properties",
        "pattern",
        "(a+)+$",
        "\\p{L}{9}",
        "image/png",
        "labels",
        "title",
        "model",
        "*",
        "e*",
        "\u{0}",
        "é",
    ];
    match input.arbitrary()? {
        true => Ok((*input.choose(WORDS)?).to_owned()),
        false => Ok(input.arbitrary::<String>()?),
    }
}
