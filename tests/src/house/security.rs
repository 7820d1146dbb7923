//! Rules on what docs/security.md promises: the tests that it names exist, and hostile cases, which are the entries of
//! tables called `HOSTILE_…`, are many.

use std::collections::BTreeSet;

use anyhow::Result;
use syn::visit::{self, Visit};

/// The page.
pub const PAGE: &str = "docs/security.md";
/// Fewest hostile cases of all tables together.
const FEWEST: usize = 150;

/// What is collected of all sources.
#[derive(Default)]
pub struct Cases {
    functions: BTreeSet<String>,
    tables: Vec<(String, usize)>,
}

impl Cases {
    /// Reads a source.
    pub fn read(&mut self, name: &str, content: &str) -> Result<()> {
        let mut reader = Reader { name, cases: self };
        reader.visit_file(&syn::parse_file(content)?);
        Ok(())
    }

    /// Appends what is not as the page has it. A table whose last column is `tests` names them there, in backticks.
    pub fn faults(&self, page: &str, faults: &mut Vec<String>) {
        let mut named = false;
        for (number, line) in page.lines().enumerate() {
            let cell = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
            named = line.starts_with('|') && (named || cell.trim() == "tests");
            for name in cell.split('`').skip(1).step_by(2).filter(|_| named) {
                if !self.functions.contains(name) {
                    faults.push(format!("{PAGE}:{}: there is no test {name}", number + 1));
                }
            }
        }
        let all: usize = self.tables.iter().map(|(_, cases)| cases).sum();
        if all < FEWEST {
            faults.push(format!("{all} hostile cases, at least {FEWEST} are wanted: {:?}", self.tables));
        }
    }

    /// Each table with its number of cases, and all together.
    pub fn told(&self) -> String {
        let all: usize = self.tables.iter().map(|(_, cases)| cases).sum();
        let rows: String = self.tables.iter().map(|(name, cases)| format!("{cases:5}  {name}\n")).collect();
        format!("{rows}{all:5}  hostile cases")
    }
}

struct Reader<'a> {
    name: &'a str,
    cases: &'a mut Cases,
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.cases.functions.insert(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        if item.ident.to_string().starts_with("HOSTILE_") {
            if let syn::Expr::Reference(table) = &*item.expr {
                if let syn::Expr::Array(array) = &*table.expr {
                    let name = format!("{} ({})", item.ident, self.name);
                    self.cases.tables.push((name, array.elems.len()));
                }
            }
        }
        visit::visit_item_const(self, item);
    }
}
