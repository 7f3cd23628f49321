//! The JSON output fits the schemas in `docs/schema`. Only what those use of JSON Schema is understood, and anything else is an
//! error, so that nothing is checked less than it seems to be.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Map, Value};

const STATUS: &str = include_str!("../../../../docs/schema/status.json");
const SHOW: &str = include_str!("../../../../docs/schema/show.json");
const WHY: &str = include_str!("../../../../docs/schema/why.json");

fn is(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other} in a schema"),
    }
}

fn object(
    schema: &Map<String, Value>,
    value: &Map<String, Value>,
    at: &str,
    bad: &mut Vec<String>,
) {
    let properties = schema.get("properties").and_then(Value::as_object).unwrap();
    for key in schema.get("required").and_then(Value::as_array).unwrap() {
        if !value.contains_key(key.as_str().unwrap()) {
            bad.push(format!("{at}: no {key}"));
        }
    }
    for (key, value) in value {
        let at = format!("{at}.{key}");
        match (properties.get(key), &schema["additionalProperties"]) {
            (Some(schema), _) => check(schema, value, &at, bad),
            (None, Value::Bool(false)) => bad.push(format!("{at} is not in the schema")),
            (None, schema) => check(schema, value, &at, bad),
        }
    }
}

fn check(schema: &Value, value: &Value, at: &str, bad: &mut Vec<String>) {
    let schema = schema.as_object().unwrap();
    for (word, rule) in schema {
        match word.as_str() {
            "$schema"
            | "title"
            | "description"
            | "properties"
            | "required"
            | "additionalProperties" => {}
            "type" => {
                let types: Vec<&str> = match rule {
                    Value::String(name) => vec![name],
                    list => {
                        let names = list.as_array().unwrap().iter();
                        names.map(|n| n.as_str().unwrap()).collect()
                    }
                };
                if !types.iter().any(|name| is(value, name)) {
                    bad.push(format!("{at}: {value} is not a {}", types.join(" or ")));
                }
            }
            "enum" => {
                if !rule.as_array().unwrap().contains(value) {
                    bad.push(format!("{at}: {value} is none of {rule}"));
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, item, &format!("{at}[{i}]"), bad);
                }
            }
            other => panic!("'{other}' in a schema"),
        }
    }
    if let (true, Some(value)) = (schema.contains_key("properties"), value.as_object()) {
        object(schema, value, at, bad);
    }
}

fn violations(schema: &str, value: &Value) -> Vec<String> {
    let mut bad = Vec::new();
    check(&serde_json::from_str(schema).unwrap(), value, "", &mut bad);
    bad
}

/// Asserts that an output of `status --json` fits.
pub(super) fn is_status(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(violations(STATUS, &value), [""; 0]);
}

/// Asserts that an output of `show --json` fits.
fn is_show(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(violations(SHOW, &value), [""; 0]);
}

/// Asserts that an output of `why --json` fits.
pub(super) fn is_why(value: &Value) {
    assert_eq!(violations(WHY, value), [""; 0]);
}

#[test]
fn what_was_recorded_fits() {
    is_status(include_str!("../../tests/data/runtime/status.json"));
    is_status("[]");
    is_show(include_str!("../../tests/data/runtime/show.json"));
}

#[test]
fn what_is_wrong_is_named() {
    let recorded = include_str!("../../tests/data/runtime/status.json");
    for (from, to, said) in [
        (
            "\"role\": \"Primary\"",
            "\"role\": \"First\"",
            ".role: \"First\"",
        ),
        ("\"node-id\": 0", "\"node-id\": \"0\"", ".node-id: \"0\""),
        ("\"quorum\": true", "\"quorate\": true", ": no \"quorum\""),
    ] {
        assert!(recorded.contains(from));
        let value = serde_json::from_str(&recorded.replacen(from, to, 1)).unwrap();
        let bad = violations(STATUS, &value);
        assert!(bad.iter().any(|b| b.contains(said)), "{said}: {bad:?}");
    }
}
