//! Who the user is inside: ids, names, groups, hosts, resolver.

use std::fs;

use crate::lab::Lab;

crate::tests![
    user_and_groups_have_the_same_ids_and_names,
    an_image_without_passwd_knows_the_user_too,
    the_images_own_users_stay,
    hosts_and_resolver_are_the_nodes,
];

fn user_and_groups_have_the_same_ids_and_names(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let [a, b] = lab.account().extra_groups();
    for what in [["-un", ""], ["-gn", ""], ["-u", ""], ["-G", ""], ["-Gn", ""]] {
        let outside = lab.srun(&["busybox", "id", what[0]]).run().success();
        let inside = lab.srun(&[&image, "id", what[0]]).run().success();
        assert_eq!(outside.stdout, inside.stdout, "id {}", what[0]);
    }
    let _ = lab.srun(&[&image, "id"]).run().success().stdout_has(&a).stdout_has(&b);
    let run = lab.srun(&[&image, "sh", "-c", "echo ~; grep ^$(id -un): /etc/passwd"]).run().success();
    let home = lab.account().home.display().to_string();
    assert_eq!(run.stdout.lines().next(), Some(home.as_str()), "{run}");
    let _ = run.stdout_has(&format!(":{home}:/bin/"));
}

fn an_image_without_passwd_knows_the_user_too(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("no-passwd"));
    let run = lab.srun(&[&image, "id", "-un"]).run().success();
    let _ = run.stdout_is(&lab.account().name);
}

fn the_images_own_users_stay(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let run = lab.srun(&[&image, "cat", "/etc/passwd", "/etc/group"]).run().success();
    let _ = run.stdout_has("imageuser:x:4242:").stdout_has("imagegroup:x:4242:").stdout_has("root:x:0:");
}

fn hosts_and_resolver_are_the_nodes(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        // A node without a resolver has no such file to show.
        let Ok(host) = fs::read_to_string(file) else { continue };
        let run = lab.srun(&[&image, "cat", file]).run().success();
        assert_eq!(run.stdout, host, "{file}");
    }
}
