//! YAML as JSON's data model: what generators of CDI files write, and no more.
//!
//! Events of a parser that keeps no stack of calls become a tree here, of bounded depth: the builder's thread has a small
//! stack. Every scalar is text (numbers are told by whoever wants one), so that a device may be called 0 without
//! quotes. Anchors and aliases are refused: nothing writes them, and they make small texts large.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Deepest nesting; a CDI file has six levels.
const MAX_DEPTH: usize = 32;

/// A sequence or mapping that has begun.
enum Open {
    Sequence(Vec<Value>),
    /// With the key whose value comes next.
    Mapping(Map<String, Value>, Option<String>),
}

impl Open {
    /// Takes in a finished value.
    fn take(&mut self, value: Value) -> Result<(), String> {
        match self {
            Open::Sequence(items) => items.push(value),
            Open::Mapping(map, key) => match (key.take(), value) {
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return Err("a key is no text".into()),
                (Some(name), value) => {
                    if map.contains_key(&name) {
                        return Err(format!("'{name}' is given twice"));
                    }
                    map.insert(name, value);
                }
            },
        }
        Ok(())
    }

    fn close(self) -> Value {
        match self {
            Open::Sequence(items) => Value::Array(items),
            Open::Mapping(map, _) => Value::Object(map),
        }
    }
}

/// The one document of `text`.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = vec![];
    let mut document = None;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| e.to_string())?;
        let done = match event {
            Event::Alias(_) => return Err("it has an alias".into()),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() >= MAX_DEPTH => {
                return Err("it is nested too deeply".into());
            }
            Event::SequenceStart(..) => {
                open.push(Open::Sequence(vec![]));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().map(Open::close),
            Event::Scalar(text, style, ..) => {
                let key = matches!(open.last(), Some(Open::Mapping(_, None)));
                Some(match style {
                    ScalarStyle::Plain if !key && matches!(&*text, "" | "~" | "null") => Value::Null,
                    _ => Value::String(text.into_owned()),
                })
            }
            _ => continue,
        };
        let Some(done) = done else { continue };
        match open.last_mut() {
            Some(around) => around.take(done)?,
            None if document.is_none() => document = Some(done),
            None => return Err("it has more than one document".into()),
        }
    }
    document.ok_or_else(|| "it is empty".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_generators_write_is_read() {
        let text = "---\n# a comment\na: 0.5.0\nb:\n    - name: \"0\"\n      c: {}\n    - name: 1\n      c: null\nd: [x, 'y']\n";
        let value = parse(text).expect("YAML");
        let list = json!([{ "name": "0", "c": {} }, { "name": "1", "c": null }]);
        assert_eq!(value, json!({ "a": "0.5.0", "b": list, "d": ["x", "y"] }));
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let deep = "[".repeat(10_000);
        let flat = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        for bad in [
            "",
            "a: &x 1\nb: *x\n",
            "a: 1\na: 2\n",
            "a: 1\n---\nb: 1\n",
            "? [a]\n: b\n",
            "a: [",
            &deep,
            &flat,
        ] {
            assert!(parse(bad).is_err(), "{bad:.20}");
        }
    }
}
