//! Templates as Docker's users write them, and as they misspell them.

use super::*;
use serde_json::json;

fn item() -> Value {
    json!({"Repository": "a/b", "Tag": "1", "Size": 7, "None": null,
           "Config": {"Env": ["A=1", "B=2"], "Labels": {"k.x": "v"}, "Cmd": []}})
}

fn filled(text: &str) -> Result<String, Refusal> {
    match Format::parse(text, &item())? {
        Format::Each(template) | Format::Table(template) => template.fill(&item()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_dockers_users_write_is_filled_in() {
    for (text, shown) in [
        ("{{.Repository}}:{{.Tag}}", "a/b:1"),
        ("{{ .Size }}\\t{{.None}}|", "7\t|"),
        ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[k.x:v]"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{join .Config.Env \", \"}}", "A=1, B=2"),
        ("{{index .Config.Labels \"k.x\"}}{{index .Config.Env 1}}", "vB=2"),
        ("{{if .Config.Cmd}}yes{{else}}no{{end}}{{if .Tag}}!{{end}}", "no!"),
        ("{{len .Config.Env}}{{upper .Repository}}", "2A/B"),
        ("table {{.Tag}}", "1"),
        ("no fields", "no fields"),
    ] {
        assert_eq!(filled(text).expect(text), shown);
    }
    assert_eq!(Format::parse("json", &item()), Ok(Format::Json));
    assert_eq!(Format::parse("table", &item()), Ok(Format::Usual));
}

#[test]
fn what_is_not_known_is_named() {
    for (text, what) in [
        ("{{.Repositry}}", "there is no field '.Repositry'"),
        ("{{.Config.Envi}}", "there is no field '.Config.Envi'"),
        ("{{range .Config.Env}}x", "has no {{end}}"),
        ("{{.Tag", "has no end"),
        ("{{printf \"%s\" .Tag}}", "there is no function 'printf'; did you mean 'println'?"),
        ("{{.Tag | upper}}", "has a |, which is not known here"),
        ("{{end}}", "has no beginning"),
        ("{{join .Tag}}", "takes 2 operands, not 1"),
        ("{{range .Tag}}{{end}}", "is no list"),
        ("{{}}", "names nothing"),
    ] {
        let refused = filled(text).expect_err(text);
        let whole = format!("{} {}", refused.what, refused.hint.as_deref().unwrap_or_default());
        assert!(whole.contains(what), "{text}: {whole}");
    }
    let near = filled("{{.Repositry}}").expect_err("misspelt").hint.expect("a hint");
    assert!(near.starts_with("did you mean .Repository?"), "{near}");
}

#[test]
fn control_characters_of_strangers_are_shown_as_such() {
    let item = json!({"L": "\u{1b}[31m"});
    let Ok(Format::Each(t)) = Format::parse("{{.L}}", &item) else { panic!("a template") };
    assert_eq!(t.fill(&item).expect("filled"), "\\x1b[31m");
}
