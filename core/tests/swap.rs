//! The decision matrix: each file of `golden/swap` has an image, a host and what was asked for, and below the
//! `----` what comes of it. `GRUS_GOLDEN=1` writes the lower halves anew; review reads the difference.

#[path = "support/table.rs"]
mod table;

use std::path::PathBuf;

use grus_core::swap::{decide, Mode, Question};

fn cases() -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/swap");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("the folder").flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "swap"));
    files.sort();
    files
}

fn outcome(case: &table::Case) -> String {
    let question = Question {
        image: &case.image,
        library_path: &case.library_path,
        image_name: "app:1",
        stacks: &case.stacks,
        first: case.first.as_ref(),
        mode: &case.mode,
        glibc: case.glibc,
        taken: &|p| case.taken.contains(p),
    };
    let decision = decide(&question);
    // The JSON form never fails and carries the same outcome.
    let json = decision.to_json();
    assert_eq!(json["outcome"]["refused"].is_string(), decision.result.is_err());
    decision.to_string()
}

#[test]
fn the_decision_matrix() {
    let mut wrong = vec![];
    let all = cases();
    assert!(all.len() >= 40, "only {} cases", all.len());
    for file in all {
        let name = file.file_stem().and_then(|n| n.to_str()).expect("UTF-8").to_owned();
        let text = std::fs::read_to_string(&file).expect("readable");
        let (given, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        let case = table::parse(given).unwrap_or_else(|e| panic!("{name}: {e}"));
        let got = outcome(&case);
        if std::env::var_os("GRUS_GOLDEN").is_some() {
            std::fs::write(&file, format!("{given}----\n{got}")).expect("writable");
        } else if got != expected {
            wrong.push(format!("{name}:\n--- expected\n{expected}--- got\n{got}"));
        }
        let refused = name.starts_with("refuse_");
        assert_eq!(got.contains("\nRefused: "), refused, "{name} is named wrongly:\n{got}");
        assert!(!refused || got.contains("\nhint: "), "{name} has no way out:\n{got}");
    }
    assert!(wrong.is_empty(), "run with GRUS_GOLDEN=1 to accept\n{}", wrong.join("\n"));
}

#[test]
fn a_swap_can_be_kept_and_used_again() {
    for file in cases() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let case = table::parse(text.split("----\n").next().unwrap_or_default()).expect("good");
        let question = Question {
            image: &case.image,
            library_path: &[],
            image_name: "app:1",
            stacks: &case.stacks,
            first: None,
            mode: &Mode::Auto,
            glibc: case.glibc,
            taken: &|_| false,
        };
        let swap = decide(&question).result.unwrap_or_else(|e| panic!("auto never refuses: {e}"));
        let json = serde_json::to_string(&swap).expect("it has a JSON form");
        assert_eq!(serde_json::from_str::<grus_core::swap::Swap>(&json).expect("own text"), swap);
    }
}

/// An image made to keep the decision busy is left alone, soon.
#[test]
fn a_hostile_image_is_not_judged() {
    use grus_core::elf::{Collector, Object, Symbols};
    let mut c = Collector::default();
    let names: Vec<String> = (0..900).map(|n| format!("libx{n}.so")).collect();
    for name in &names {
        let object = Object {
            machine: "x86_64".into(),
            soname: Some(name.clone()),
            needed: names.clone(),
            imports: Symbols::new(["MPI_Init"]),
            ..Object::default()
        };
        c.object(grus_core::path::AbsPath::parse(&format!("/usr/lib/{name}")).expect("a path"), object);
    }
    let image = c.finish();
    let given = std::fs::read_to_string(&cases()[0]).expect("readable");
    let stacks = table::parse(given.split("----\n").next().unwrap_or_default()).expect("good").stacks;
    let question = Question {
        image: &image,
        library_path: &[],
        image_name: "app:1",
        stacks: &stacks,
        first: None,
        mode: &Mode::Host,
        glibc: Default::default(),
        taken: &|_| false,
    };
    let refusal = decide(&question).result.expect_err("too much");
    assert_eq!(refusal.what, "image app:1 has more libraries than can be judged");
}
