//! The site's modules in a plan.

use super::*;

const SITE: &str = r#"
    [environment.prepend]
    LD_LIBRARY_PATH = "/site/lib"
    [module.cxi]
    when = "if device present"
    devices = ["/dev/fuse"]
    binds = ["/usr/lib/libcxi.so.1:/opt/cxi/libcxi.so.1:ro", "/nowhere:/opt/nowhere"]
    environment.prepend = { LD_LIBRARY_PATH = "/opt/cxi" }
    environment.set = { FI_PROVIDER = "cxi", IMG = "module" }
    [module.absent]
    when = "if device present"
    devices = ["/dev/absent"]
    [module.app]
    when = "if image has"
    image-has = ["/usr/local"]
    environment.unset = ["HO*"]
    [module.data]
    binds = ["/data:/data:ro"]
    [module.broken]
    binds = ["/nowhere:/opt/nowhere"]
    [module.may]
    binds = ["/nowhere:/opt/nowhere:optional"]
"#;

#[test]
fn modules_that_suit() {
    Case { site: SITE, ..Case::of(&[]) }.golden("modules");
}

#[test]
fn modules_asked_for() {
    Case { site: SITE, ..Case::of(&["container-module=none,data,may"]) }.golden("modules-asked");
}

#[test]
fn a_module_that_is_asked_for_is_had_as_a_whole() {
    let refused = |options| Case { site: SITE, ..Case::of(options) }.refused();
    let refusal = refused(&["container-module=broken"]);
    assert_eq!(refusal.what, "cannot bind /nowhere on /opt/nowhere: No such file or directory");
    let refusal = refused(&["container-module=absent"]);
    assert_eq!(refusal.what, "the module 'absent' cannot be had: this node has none of its devices");
    let refusal = refused(&["container-module=dat"]);
    assert_eq!(refusal.hint.as_deref(), Some("did you mean 'data'?"));
}
