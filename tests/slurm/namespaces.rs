//! --container-unshare: network, IPC and host name of the container's own.

use std::fs;

use crate::lab::Lab;

crate::tests![
    the_network_is_loopback_alone_and_up,
    tasks_of_a_node_share_what_is_the_containers_own,
    nobody_may_change_them,
    nothing_is_left_of_them,
    steps_between_nodes_are_warned_once,
    mpi_on_one_node_works_without_the_network,
];

fn own(lab: &Lab, which: &str, options: &[&str], script: &str) -> grus_tests::Output {
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let own = format!("--container-unshare={which}");
    lab.srun(&[&image, &own]).args(options).args(["sh", "-c", script]).run()
}

fn the_network_is_loopback_alone_and_up(lab: &Lab) {
    let script = "ls /proc/self/net/dev >/dev/null; ip -o link | wc -l; ip -o link | grep -o 'lo: <[A-Z_,]*>'; \
                  echo hello | nc -l -p 7 127.0.0.1 -e cat 2>/dev/null & true; ping -c1 -w2 127.0.0.1 >/dev/null; true";
    let run = own(lab, "net", &[], script).success();
    let _ = run.stdout_has("1\n").stdout_has("LOOPBACK,UP").stderr_lacks("grus");
    let talks = "nc -l -p 7777 -e echo hello & sleep 0.3; nc 127.0.0.1 7777";
    let _ = own(lab, "net", &[], talks).success().stdout_is("hello");
}

fn tasks_of_a_node_share_what_is_the_containers_own(lab: &Lab) {
    let script = "for n in net ipc uts mnt; do readlink /proc/self/ns/$n; done";
    let run = own(lab, "net,ipc,uts", &["-N1", "-n2"], script).success();
    let host = |name: &str| {
        fs::read_link(format!("/proc/self/ns/{name}")).expect("proc is mounted").display().to_string()
    };
    for name in ["net", "ipc", "uts", "mnt"] {
        let lines: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with(name)).collect();
        assert!(lines.len() == 2 && lines[0] == lines[1] && lines[0] != host(name), "{name}: {run}");
    }
    let run = own(lab, "ipc", &[], script).success();
    let _ = run.stdout_has(&host("net")).stdout_has(&host("uts")).stdout_lacks(&host("ipc"));
    let run = own(lab, "uts", &[], "hostname").success();
    let node = grus_tests::Cmd::new("hostname").run().success();
    let _ = run.stdout_is(node.trimmed());
}

fn nobody_may_change_them(lab: &Lab) {
    for options in [&[][..], &["--container-remap-root"]] {
        let script =
            "hostname other 2>/dev/null && echo renamed; ip link set lo down 2>/dev/null && echo down; \
                      ip link add dummy9 type dummy 2>/dev/null && echo added; true";
        let _ = own(lab, "net,ipc,uts", options, script).success().stdout_is("");
    }
}

fn nothing_is_left_of_them(lab: &Lab) {
    let before = lab.snapshot();
    let namespaces =
        || grus_tests::Cmd::new("lsns").args(["--noheadings", "--output=NS", "--type=net"]).run();
    let count = namespaces().success().stdout.lines().count();
    for _ in 0..3 {
        let _ = own(lab, "net,ipc,uts", &["-N2"], "true").success();
        let _ = own(lab, "net", &["-N1"], "kill -KILL $$").failure();
    }
    before.assert_nothing_left();
    assert!(namespaces().success().stdout.lines().count() <= count, "a network is left");
}

fn steps_between_nodes_are_warned_once(lab: &Lab) {
    let run = own(lab, "net", &["-N2", "-n4"], "true").success();
    assert_eq!(run.stderr.matches("grus: warning: with --container-unshare=net").count(), 1, "{run}");
    let _ = own(lab, "net", &["-N1", "-n2"], "true").success().stderr_lacks("grus");
    let _ = own(lab, "ipc", &["-N2", "-n4"], "true").success().stderr_lacks("grus");
    let _ = own(lab, "net", &["--mpi=pmix"], "true").stderr_has("will not start under --mpi=pmix");
}

fn mpi_on_one_node_works_without_the_network(lab: &Lab) {
    let image = format!("--container-image={}", lab.system_image("mpich"));
    let options = ["-N1", "-n2", "--mpi=pmi2", "--container-unshare=net,ipc,uts", &image, "mpi-hello"];
    let _ = lab.srun(&options).run().success().stdout_has("2 ranks, sum of ranks 1");
}
