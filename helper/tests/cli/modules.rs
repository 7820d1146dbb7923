//! Modules of the site that bring libraries, in `grus host scan`, `explain`, `plan` and `run`: libraries made here.

use std::fs;

use serde_json::Value;

use crate::explain::app;
use crate::mpi;
use crate::support::Lab;

/// A lab with image `app`, of an MPI on a libfabric 1.`images`, and the host's libfabric 1.2 alone as stack `fast`, which
/// module `fabric` brings.
fn lab(images: usize, module: &str) -> Lab {
    let lab = Lab::new();
    mpi::libfabric(&lab, "host/lib", 2);
    let said = lab.run(["host", "scan", "--fabric", "host", "--name", "fast"]).ok().out;
    assert!(said.contains("libfabric with FABRIC_1.2 in ") && said.contains(", no MPI, "), "{said}");
    app(&lab, &[], images);
    let text = format!(
        "mpi.default = 'image'\n[module.fabric]\nabout = 'a fabric'\nlibraries = 'fast'\nenvironment.set = {{ FI_PROVIDER = 'test' }}\n{module}\n\
         [module.absent]\nwhen = 'if device present'\ndevices = ['/dev/grus-nowhere']\nbinds = ['/grus/nowhere:/x']\n\
         [module.app]\nwhen = 'if image has'\nimage-has = ['/nothing', '/usr/bin/app']\n[module.other]\n"
    );
    fs::write(lab.path("grus.toml"), text).expect("site file");
    lab
}

const BY_DEVICE: &str = "when = 'if device present'\ndevices = ['/dev/null']";

#[test]
fn libfabric_is_scanned_with_its_providers_and_without_mpi() {
    let lab = lab(1, "");
    let profile = fs::read_to_string(lab.path("stacks/fast.toml")).expect("a profile");
    for part in ["libfabric.so.1\"", "libtest-fi.so\"", "role = \"plugin\"", "FI_PROVIDER_PATH = "] {
        assert!(profile.contains(part), "{part} is not in {profile}");
    }
    assert!(!profile.contains("[[mpi]]"), "{profile}");
    let none = lab.run(["host", "scan", "--fabric", "stacks", "--output", "-"]);
    assert!(none.err.contains("no libfabric was found in ") && none.code == Some(2), "{none:?}");
    let said = lab.run(["host", "scan", "host", "--output", "-"]);
    assert!(said.err.contains("no MPI library was found") && said.err.contains("--fabric"), "{said:?}");
    let shown = lab.run(["host", "scan", "--fabric", "host", "--output", "-"]).ok().out;
    assert!(shown.contains("libtest-fi.so"), "{shown}");
}

#[test]
fn explain_tells_which_modules_come_and_what_of_each_fits() {
    let of = lab(1, BY_DEVICE);
    let said = of.run(["explain", "app"]).ok().out;
    for part in [
        "The image's MPI runs on the libfabric of host stack 'fast'.",
        "Modules of this site:\n  absent               stays out: this host has none of its devices\n    not on this host: /grus/nowhere\n",
        "  app                  comes: the image has /usr/bin/app\n",
        "  fabric               comes: this host has /dev/null\n    the libraries of host stack 'fast' fit\n",
        "  other                stays out: only on request\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let json: Value = serde_json::from_str(&of.run(["explain", "app", "--json"]).ok().out).expect("JSON");
    let fabric = &json["modules"][2];
    assert_eq!(
        (&fabric["name"], &fabric["comes"], &fabric["stack"]),
        (&"fabric".into(), &true.into(), &"fast".into())
    );
    assert_eq!(
        (&fabric["unfit"], &json["modules"][0]["missing"][0]),
        (&Value::Null, &"/grus/nowhere".into())
    );
    let said = of.run(["explain", "app", "--module", "none,other"]).ok().out;
    assert!(said.contains("  other                comes: it is asked for"), "{said}");
    assert!(
        said.contains("  fabric               stays out: only those are wanted that are asked for"),
        "{said}"
    );
    assert!(said.contains("Nothing of the host's MPI is used."), "{said}");
    let absent = of.run(["explain", "app", "--module", "absent"]);
    absent.refused(2, "the module 'absent' cannot be had: this node has none of its devices");
}

#[test]
fn what_does_not_fit_is_refused_or_left_out_with_its_reason() {
    let of = lab(9, BY_DEVICE);
    let why = "has FABRIC_1.3, which the older libfabric of host stack 'fast' lacks";
    let said = of.run(["explain", "app"]).ok().out;
    assert!(said.contains("warning   the module 'fabric' is left out: image app: "), "{said}");
    assert!(said.contains("  fabric               stays out: its libraries do not fit\n"), "{said}");
    assert!(said.contains("the libraries of host stack 'fast' do not fit: ") && said.contains(why), "{said}");
    let said = of.run(["explain", "app", "--module", "fabric"]);
    assert!(said.err.starts_with("grus: the module 'fabric' cannot be had: image app: "), "{said:?}");
    assert!(said.err.contains(why) && said.err.contains("\nhint: leave it out"), "{said:?}");
    let plan = of.run(["plan", "app"]).ok().out;
    assert!(plan.contains("is left out") && !plan.contains("module    fabric"), "{plan}");
    assert!(!plan.contains("FI_PROVIDER"), "its variables are left out, too: {plan}");
    let refused = of.run(["plan", "app", "--container-module=fabric"]);
    refused.refused(65, "the module 'fabric' cannot be had: image app:latest: ");
}

#[test]
fn a_plan_has_the_libraries_of_its_modules() {
    for (module, options) in
        [(BY_DEVICE, &[][..]), ("", &["--container-module=fabric"]), ("when = 'always'", &[])]
    {
        let of = lab(1, module);
        // Twice: the ruling is kept.
        for _ in 0..2 {
            let plan = of.run([&["plan", "app"][..], options].concat()).ok().out;
            for part in [
                "module    fabric\n",
                "link      /opt/mpi/lib/libfabric.so.1 -> ",
                "FI_PROVIDER=test",
                "FI_PROVIDER_PATH=",
            ] {
                assert!(plan.contains(part), "{part:?} is not in {plan}");
            }
        }
        let without = of.run(["plan", "app", "--container-mpi=image", "--container-module=none"]).ok().out;
        assert!(!without.contains("/run/grus") && !without.contains("FI_PROVIDER"), "{without}");
        let refused = of.run(["plan", "app", "--container-module=fabric", "--container-mpi=image"]);
        refused.refused(2, "brings host stack 'fast', and --container-mpi=image contradicts it");
    }
}

#[test]
fn an_image_without_libfabric_gets_it_where_it_is_asked_for() {
    let of = lab(1, BY_DEVICE);
    mpi::rootfs(&of, "plain");
    let _ = of.run(["import", "-q", "plain", "plain"]).ok();
    let plan = of.run(["plan", "plain"]).ok().out;
    assert!(!plan.contains("module    fabric") && !plan.contains("warning"), "quietly without: {plan}");
    let plan = of.run(["plan", "plain", "--container-module=fabric"]).ok().out;
    assert!(
        plan.contains("module    fabric\n") && plan.contains("/run/grus/lib/libfabric.so.1 -> "),
        "{plan}"
    );
}

#[test]
fn a_stack_that_the_site_lacks_is_refused_where_it_is_asked_for() {
    let of = lab(1, "");
    fs::remove_file(of.path("stacks/fast.toml")).expect("the profile");
    let refused = of.run(["plan", "app", "--container-module=fabric"]);
    refused.refused(2, "the module 'fabric' cannot be had: there is no host stack 'fast'");
}
