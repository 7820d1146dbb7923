//! One record of comma-separated values (RFC 4180): how options write lists whose items may hold commas.

/// The fields of a record: split at commas; a quoted field may hold commas and doubled quotes. An empty field is an
/// error.
pub fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = vec![];
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => match rest.split_once(',') {
                Some((field, after)) => (field.to_owned(), Some(after)),
                None => (rest.to_owned(), None),
            },
        };
        if field.is_empty() {
            return Err("it has an empty field");
        }
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// A field as [`fields`] reads it, whatever is in it.
pub fn field(text: &str) -> String {
    match text.contains(',') || text.starts_with('"') {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// The rest of a quoted field, and what follows its comma.
fn unquote(quoted: &str) -> Result<(String, Option<&str>), &'static str> {
    let mut field = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, c)| *c == '"').is_some() => field.push('"'),
            '"' => {
                let after = &quoted[at + 1..];
                return match after.strip_prefix(',') {
                    Some(rest) => Ok((field, Some(rest))),
                    None if after.is_empty() => Ok((field, None)),
                    None => Err("a closing quote is followed by neither ',' nor the end"),
                };
            }
            c => field.push(c),
        }
    }
    Err("a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_hold_commas_and_quotes() {
        assert_eq!(fields(r#"a,"b,c","d ""e""""#), Ok(vec!["a".into(), "b,c".into(), "d \"e\"".into()]));
        for text in ["a", "a b", "A=1,\"2\"", "\"", "a\"b\""] {
            assert_eq!(fields(&format!("x,{}", field(text))), Ok(vec!["x".into(), text.into()]));
        }
        for bad in ["", "a,", ",a", "\"a", "\"a\"b"] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
