//! `grus images`, `inspect`, `history` and `config`: columns, filters, templates, JSON.

use std::fs;

use serde_json::{json, Value};

use crate::archives::*;
use crate::support::Lab;

/// app:1 and x.y/team/tool:2 (with a label and a history), and an image without a name.
fn lab() -> Lab {
    let lab = Lab::new();
    let (_, _) = simple_layout(lab.path("first"));
    let _ = lab.run(["import", "-q", "first", "app:1"]).ok();
    let mut layout = Layout::new(lab.path("second"));
    let layers = [base_layer(), tar_of(&[("srv/n", b"2")])];
    let packed: Vec<Value> = layers
        .iter()
        .map(|layer| layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer)))
        .collect();
    let mut config = config(&layers, arch());
    config["created"] = json!("2024-05-01T00:00:00Z");
    config["config"]["Labels"] = json!({"org.example.team": "cranes"});
    config["history"] = json!([
        {"created": "2024-05-01T00:00:00Z", "created_by": "ADD rootfs.tar /"},
        {"created_by": "ENV WHO=crane", "empty_layer": true, "comment": "buildkit"},
        {"created_by": "RUN /bin/sh -c echo 2 > /srv/n \u{1b}[31m && true && true && true && true"},
    ]);
    let config = layout.document("application/vnd.oci.image.config.v1+json", &config);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": packed});
    let image = layout.document("application/vnd.oci.image.manifest.v1+json", &manifest);
    layout.add(image, None, None);
    layout.finish();
    let _ = lab.run(["import", "-q", "second", "x.y/team/tool:2"]).ok();
    lab
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_table_has_its_columns() {
    let lab = lab();
    let listed = lab.run(["images"]).ok().out;
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE", "SERVER"]);
    assert_eq!((lines[1][0], lines[1][1], lines[1].last()), ("app", "1", Some(&"docker.io")));
    assert_eq!((lines[2][0], lines[2].last()), ("x.y/team/tool", Some(&"x.y")));
    assert_eq!(lines[1][2].len(), 12);
    assert!(lab.run(["images", "--digests"]).ok().out.contains("sha256:"));
}

#[test]
fn filters_take_what_fits_all_of_them() {
    let lab = lab();
    let names = |filters: &[&str]| {
        let args = filters.iter().flat_map(|f| ["--filter", f]).chain(["--format", "{{.Reference}}"]);
        lab.run(["images"].into_iter().chain(args)).ok().out.replace('\n', " ").trim().to_owned()
    };
    assert_eq!(names(&[]), "app:1 x.y/team/tool:2");
    assert_eq!(names(&["reference=x.y/*/*"]), "x.y/team/tool:2");
    assert_eq!(names(&["reference=*:1"]), "app:1");
    assert_eq!(names(&["server=docker.io"]), "app:1");
    assert_eq!(names(&["label=org.example.team"]), "x.y/team/tool:2");
    assert_eq!(names(&["label=org.example.team=herons"]), "");
    assert_eq!(names(&["before=x.y/team/tool:2"]), "app:1");
    assert_eq!(names(&["since=app:1", "server=x.y"]), "x.y/team/tool:2");
    assert_eq!(names(&["dangling=true"]), "");
    fs::remove_dir_all(lab.repository().join("refs/docker.io")).expect("the tag");
    assert_eq!(lab.run(["images", "--filter", "dangling=true", "-q"]).ok().out.lines().count(), 1);
    lab.run(["images", "--filter", "before=nosuch"]).refused(2, "no image nosuch:latest");
}

#[test]
fn templates_are_dockers() {
    let lab = lab();
    let of = |args: &[&str]| lab.run(args).ok().out;
    assert_eq!(of(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "app:1\nx.y/team/tool:2\n");
    let table = of(&["images", "--format", "table {{.Tag}}\\t{{.Server}}"]);
    assert_eq!(table, "TAG  SERVER\n1    docker.io\n2    x.y\n");
    let lines = of(&["images", "--format", "json"]);
    assert_eq!(lines.lines().map(json).filter(|item| item["Server"] == "x.y").count(), 1);
    assert_eq!(of(&["images", "--format", "table"]), of(&["images"]));
    assert_eq!(
        of(&["inspect", "-f", "{{join .Config.Env \" \"}}", "app:1"]),
        "PATH=/usr/bin:/bin WHO=crane\n"
    );
    assert_eq!(
        of(&["inspect", "-f", "{{index .Config.Labels \"org.example.team\"}}", "x.y/team/tool:2"]),
        "cranes\n"
    );
    lab.run(["inspect", "-f", "{{.Confi.Env}}", "app:1"]).refused(2, "there is no field '.Confi.Env'");
    lab.run(["images", "--format", "{{.Tag", "--json"]).refused(2, "cannot be used with");
}

#[test]
fn inspect_has_the_members_that_docker_has() {
    let lab = lab();
    let all = json(&lab.run(["inspect", "app:1", "x.y/team/tool:2"]).ok().out);
    let one = &all[1];
    assert_eq!(one["RepoTags"], json!(["x.y/team/tool:2"]));
    assert_eq!(one["RepoDigests"][0], json!(format!("x.y/team/tool@{}", one["Id"].as_str().expect("Id"))));
    assert_eq!((&one["Os"], &one["Architecture"]), (&json!("linux"), &json!(arch())));
    assert_eq!(one["Config"]["Labels"]["org.example.team"], "cranes");
    assert_eq!(one["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    let path = one["Path"].as_str().expect("a path");
    assert_eq!(fs::metadata(path).expect("the file").len(), one["Size"].as_u64().expect("a size"));
}

#[test]
fn history_tells_how_an_image_was_made() {
    let lab = lab();
    let steps = json(&lab.run(["history", "--json", "x.y/team/tool:2"]).ok().out);
    let layers: Vec<bool> =
        steps.as_array().expect("a list").iter().map(|s| s["layer"].is_string()).collect();
    assert_eq!(layers, [true, false, true], "the last step first");
    assert_eq!(steps[2]["created_by"], "ADD rootfs.tar /");
    assert!(steps[0]["size"].as_u64().is_some_and(|size| size > 20), "{steps}");
    let table = lab.run(["history", "x.y/team/tool:2"]).ok().out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("LAYER") && lines[1].contains("RUN /bin/sh -c echo 2"), "{table}");
    assert!(lines[1].contains('…') && !table.contains('\u{1b}'), "{table}");
    assert!(lines[2].starts_with("<none>") && lines[2].ends_with("buildkit"), "{table}");
    let whole = lab.run(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "x.y/team/tool:2"]).ok().out;
    assert!(whole.lines().next().is_some_and(|line| line.ends_with("&& true")), "{whole}");
    // Of an image whose builder said nothing, the layers are known.
    assert_eq!(lab.run(["history", "-q", "app:1"]).ok().out.lines().count(), 1);
}

#[test]
fn config_tells_each_value_and_its_file() {
    let lab = Lab::new();
    fs::create_dir(lab.path("grus.d")).expect("mkdir");
    let site = lab.path("grus.toml");
    fs::write(&site, "mounts.tmp = false\nrepository.user = \"/a/{user}\"\n").expect("write");
    fs::write(lab.path("grus.d/10.toml"), "mounts.tmp = true\nmounts.site = [\"/srv\"]\n").expect("write");
    assert_eq!(lab.run(["config", "repository.user"]).ok().out, "/a/{user}\n");
    assert_eq!(lab.run(["config", "mounts.tmp"]).ok().out, "true\n");
    let changed = lab.run(["config", "--changed", "mounts"]).ok().out;
    let rows: Vec<Vec<&str>> =
        changed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let drop_in = lab.path("grus.d/10.toml").display().to_string();
    assert_eq!(rows, [vec!["mounts.tmp", "true", &drop_in], vec!["mounts.site", "[\"/srv\"]", &drop_in]]);
    let mut command = lab.command(["config", "--json"]);
    command.env("GRUS_CONTAINER_IMAGE", "ubuntu:24.04");
    let said = crate::support::Output::of(command.output().expect("grus starts")).ok();
    let report = json(&said.out);
    assert_eq!(report["repository"], lab.repository().display().to_string());
    assert_eq!(report["repository-from"], "GRUS_REPOSITORY");
    assert_eq!(report["options"][0]["variable"], "GRUS_CONTAINER_IMAGE");
    let keys = report["keys"].as_array().expect("a list");
    let key = |name: &str| keys.iter().find(|key| key["key"] == name).expect(name);
    assert_eq!(key("repository.user")["from"], json!([site.display().to_string()]));
    assert_eq!(key("mounts.home")["from"], json!([]));
    let table = lab.run(["config"]).ok().out;
    assert!(table.contains("(repository)") && table.contains("GRUS_REPOSITORY"), "{table}");
    lab.run(["config", "mounts.hom"]).refused(2, "there is no key mounts.hom");
}
