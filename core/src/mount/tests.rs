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
        ("src=/a,dst=/b,recursive=false,noexec,optional", "/a on /b (rw,norec,noexec,optional)"),
        ("type=tmpfs,dst=/t", "a tmpfs on /t (rw,mode=0700)"),
        (
            "type=tmpfs,dst=/t,size=64m,mode=1777,huge=within_size",
            "a tmpfs on /t (rw,size=64m,mode=1777,huge=within_size)",
        ),
        ("type=squashfs,src=data.sqsh,dst=/data", "squashfs /work/dir/data.sqsh on /data (rw)"),
        ("type=scratch,dst=/s,size=10G", "a scratch directory on /s (rw,size=10g)"),
        ("type=umount,dst=/tmp", "nothing on /tmp (rw)"),
        ("/a:/b:ro+rbind+nosuid+nofail+x-create=dir", "/a on /b (ro,optional)"),
        ("/a:/b:bind", "/a on /b (rw,norec)"),
        ("d.sqsh:/b:squashfs", "squashfs /work/dir/d.sqsh on /b (rw)"),
        ("tmpfs:/t:size=4096+mode=755", "a tmpfs on /t (rw,size=4k,mode=0755)"),
        ("umount:/tmp", "nothing on /tmp (rw)"),
        ("./tmpfs:/t", "/work/dir/tmpfs on /t (rw)"),
    ] {
        assert_eq!(shown(text), meaning, "{text}");
    }
}

const HOSTILE_MOUNTS: &[(&str, &str)] = &[
    ("", "its source is empty"),
    (":", "its source is empty"),
    (":/b", "its source is empty"),
    ("/a:b", "'b' is not an absolute path"),
    ("/a:", "'' is not an absolute path"),
    ("/a:/b:rx", "'rx' is no flag of a mount"),
    ("/a:/b:ro:x", "it has more than two ':'"),
    ("/a:/", "nothing can be mounted on '/'"),
    ("/a:/b/../c", "'/b/../c' has '..' in it"),
    ("type=bind", "it has no source"),
    ("type=bind,source=/a", "it has no destination"),
    ("type=volume,source=a,dst=/b", "type 'volume' is not one of bind, tmpfs, squashfs, scratch, umount"),
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
    ("type=tmpfs,src=/a,dst=/b", "type tmpfs takes no 'source'"),
    ("type=tmpfs,dst=/b,size=0", "'0' is not a size"),
    ("type=tmpfs,dst=/b,size=99999999999999t", "'99999999999999t' is not a size"),
    ("type=tmpfs,dst=/b,mode=89", "'mode' is octal, such as 1777"),
    ("type=tmpfs,dst=/b,huge=maybe", "'huge' is never, always, within_size or advise"),
    ("src=/a,dst=/b,size=1g", "type bind takes no 'size'"),
    ("type=squashfs,dst=/b", "it has no source"),
    ("type=squashfs,src=/a,dst=/b,recursive", "type squashfs takes no 'recursive'"),
    ("type=scratch,dst=/b", "it has no size"),
    ("type=umount", "it has no destination"),
    ("tmpfs", "'tmpfs' needs a destination; for a directory write ./tmpfs"),
    ("/a:/b:rshared", "mounts made in a container are never shared with the host"),
    ("/a:/b:ro+ro", "'readonly' is given twice"),
    ("/a:/b\0c", "'/b\\x00c' has a NUL in it"),
    ("type=bind,source=/a,dst=/b,upperdir=/root", "'upperdir' is not known"),
    ("/a:/b:suid", "'suid' is no flag of a mount"),
    ("/a:/b:dev", "'dev' is no flag of a mount"),
];

#[test]
fn what_is_wrong_is_named_in_one_line_with_the_way_out() {
    for (text, why) in HOSTILE_MOUNTS.iter().copied() {
        let refusal = Mount::parse(text, &cwd()).expect_err(text);
        assert!(refusal.what.ends_with(why), "{text:?}: {refusal}");
        assert!(!refusal.what.contains('\n') && refusal.hint.is_some());
    }
}

#[test]
fn a_list_is_split_at_commas_outside_of_quotes() {
    let shown = |text: &str| -> Vec<String> {
        Mount::parse_list(text, &cwd()).expect(text).iter().map(Mount::to_string).collect()
    };
    assert_eq!(
        shown("/a,/b:/c:ro,\"/with,comma:/d\",tmpfs:/t"),
        ["/a on /a (rw)", "/b on /c (ro)", "/with,comma on /d (rw)", "a tmpfs on /t (rw,mode=0700)"]
    );
    let refusal = Mount::parse_list("/a,", &cwd()).expect_err("empty field");
    assert_eq!(refusal.what, "--container-mounts=/a,: it has an empty field");
}
