//! Names with sizes as one text, `name:bytes` words: how facts and profiles keep the sizes of data objects.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use super::symbols::MAX_NAMES;
use crate::refusal::printable;

/// Sizes in bytes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sizes(BTreeMap<String, u64>);

impl Sizes {
    /// The words of the text form.
    pub fn words(&self) -> Vec<String> {
        self.0.iter().map(|(name, size)| format!("{name}:{size}")).collect()
    }
}

impl Deref for Sizes {
    type Target = BTreeMap<String, u64>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Sizes {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl TryFrom<String> for Sizes {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let mut sizes = BTreeMap::new();
        for word in text.split_whitespace() {
            let pair = word.rsplit_once(':').and_then(|(name, size)| Some((name, size.parse().ok()?)));
            let (name, size) = pair.ok_or_else(|| format!("'{}' is not name:bytes", printable(word)))?;
            sizes.insert(name.to_owned(), size);
            if sizes.len() > MAX_NAMES {
                return Err(format!("more than {MAX_NAMES} names"));
            }
        }
        Ok(Self(sizes))
    }
}

impl From<Sizes> for String {
    fn from(sizes: Sizes) -> String {
        sizes.words().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_back_and_wrong_words_are_named() {
        let text = "a:1 b::2 c:18446744073709551615";
        let sizes = Sizes::try_from(text.to_owned()).expect("good");
        assert_eq!(sizes.get("b:"), Some(&2));
        assert_eq!(String::from(sizes), text);
        for bad in ["a", "a:", "a:x", "a:-1", "a:18446744073709551616"] {
            assert_eq!(Sizes::try_from(bad.to_owned()), Err(format!("'{bad}' is not name:bytes")));
        }
    }
}
