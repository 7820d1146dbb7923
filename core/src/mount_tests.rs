use super::*;

fn cwd() -> AbsPath {
    AbsPath::parse("/work/dir").expect("static")
}

fn shown(text: &str) -> String {
    match Mount::parse(text, &cwd()) {
        Ok(mount) => mount.to_string(),
        Err(refusal) => panic!("{text}: {refusal}"),
    }
}

#[test]
fn both_forms_and_every_synonym_mean_the_same() {
    for (text, meaning) in [
        ("type=bind,source=/a,destination=/b", "/a on /b (rw)"),
        ("type=bind,src=/a,dst=/b,readonly", "/a on /b (ro)"),
        ("src=/a,target=/b,ro", "/a on /b (ro)"),
        ("readonly,src=/a,target=/b", "/a on /b (ro)"),
        ("source=/a,destination=/b,readonly=false", "/a on /b (rw)"),
        ("destination=/b,ro=1,source=/a/,type=bind", "/a on /b (ro)"),
        ("\"source=/a,b\",\"dst=/x \"\"y\"\"\"", "/a,b on /x \"y\" (rw)"),
        ("source=/a:b,dst=/c:d", "/a:b on /c:d (rw)"),
        ("source=data,dst=/c", "/work/dir/data on /c (rw)"),
        ("/a", "/a on /a (rw)"),
        ("./data", "/work/dir/data on /work/dir/data (rw)"),
        ("data:/d", "/work/dir/data on /d (rw)"),
        ("/a:/b", "/a on /b (rw)"),
        ("/a:/b:ro", "/a on /b (ro)"),
        ("/a:/b:rw", "/a on /b (rw)"),
        ("/with space:/d e", "/with space on /d e (rw)"),
        ("/k=v:/b", "/k=v on /b (rw)"),
    ] {
        assert_eq!(shown(text), meaning, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_in_one_line_with_the_way_out() {
    for (text, why) in [
        ("", "its source is empty"),
        (":", "its source is empty"),
        (":/b", "its source is empty"),
        ("/a:b", "'b' is not an absolute path"),
        ("/a:", "'' is not an absolute path"),
        ("/a:/b:rx", "'rx' is neither ro nor rw"),
        ("/a:/b:ro:x", "it has more than two ':'"),
        ("/a:/", "nothing can be mounted on '/'"),
        ("/a:/b/../c", "'/b/../c' has '..' in it"),
        ("type=bind", "it has no source"),
        ("type=bind,source=/a", "it has no destination"),
        ("type=volume,source=a,dst=/b", "type 'volume' is not supported"),
        ("type=bind,source=/a,source=/b,dst=/c", "'source' is given twice"),
        ("source=/a,dst=/b,dst=/c", "'destination' is given twice"),
        ("source=/a,dst=/b,ro,rw", "'readonly' is given twice"),
        ("source=/a,destnation=/b", "'destnation' is not known; did you mean 'destination'?"),
        ("source=/a,dst=/b,bananas", "'bananas' is not known"),
        ("source=/a,dst=/b,readonly=maybe", "'readonly' is true or false"),
        ("source=/a,dst", "'dst' is not written that way"),
        ("source=/a,,dst=/b", "it has an empty field"),
        ("\"source=/a,dst=/b", "a quote is not closed"),
        ("source=/a\n,dst=b", "'b' is not an absolute path"),
    ] {
        let refusal = Mount::parse(text, &cwd()).expect_err(text);
        assert!(refusal.what.ends_with(why), "{text:?}: {refusal}");
        assert!(!refusal.what.contains('\n') && refusal.hint.is_some());
    }
}
