//! Answers of the API, each with the JSON Schema that describes it: both are made from one definition.

use serde_json::{Value, json};

/// What a value looks like as JSON.
pub trait Schema {
    /// Its JSON Schema.
    fn schema() -> Value;
}

impl Schema for u64 {
    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl Schema for bool {
    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

impl Schema for String {
    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

impl<T: Schema> Schema for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Schema> Schema for Option<T> {
    fn schema() -> Value {
        json!({ "anyOf": [T::schema(), { "type": "null" }] })
    }
}

/// Defines an answer: a struct that becomes JSON, and its schema. Each field's text is its description.
macro_rules! answer {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        pub struct $name { $($(#[doc = $field_doc])+ pub $field: $type,)* }

        impl $crate::observe::schema::Schema for $name {
            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                $(properties.insert(
                    stringify!($field).to_owned(),
                    $crate::observe::schema::described(
                        <$type as $crate::observe::schema::Schema>::schema(),
                        concat!($($field_doc),+),
                    ),
                );)*
                serde_json::json!({
                    "type": "object",
                    "description": concat!($($doc),+).trim(),
                    "properties": properties,
                    "required": [$(stringify!($field)),*],
                    "additionalProperties": false,
                })
            }
        }
    };
}
pub(crate) use answer;

/// The schema with a description, unless it has one of its own.
#[must_use]
pub fn described(mut schema: Value, description: &str) -> Value {
    if let Value::Object(schema) = &mut schema
        && !schema.contains_key("description")
    {
        schema.insert("description".to_owned(), description.trim().into());
    }
    schema
}
