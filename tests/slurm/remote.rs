//! What reaches a step from outside its terminal: jobs that come by slurmrestd, and windows that go back by X11.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::Cluster;
use rustix::process::Signal;

use crate::lab::Lab;

crate::tests![
    a_job_by_slurmrestd_has_containers_by_variables,
    windows_reach_the_display_of_the_submitting_host
];

const LIMIT: Duration = Duration::from_secs(90);

fn a_job_by_slurmrestd_has_containers_by_variables(lab: &Lab) {
    let dir = lab.fresh_dir("rest");
    let socket = dir.join("socket");
    // As the user: rest_auth/local knows a client by its socket's credentials (slurmrestd(8)).
    let daemon = lab.user("/usr/sbin/slurmrestd").args(["-a", "rest_auth/local", "-s", "openapi/v0.0.38"]);
    let daemon = daemon.arg(format!("unix:{}", socket.display())).spawn();
    assert!(wait_until(LIMIT, || socket.exists()), "slurmrestd does not listen");
    let job = serde_json::json!({
        "script": "#!/bin/sh\necho script $IMAGE_NAME\nsrun sh -c 'echo step $IMAGE_NAME; cat /etc/only-in-image'\n",
        "job": {
            "name": "rest",
            "current_working_directory": lab.work_dir(),
            "standard_output": lab.work_dir().join("batch-%j.out"),
            "environment": {
                "PATH": "/usr/bin:/bin",
                "SLURM_CONF": lab.slurm_conf(),
                "GRUS_CONTAINER_IMAGE": lab.system_image("busybox"),
            },
        },
    });
    let curl = lab.user("curl").args(["--silent", "--show-error", "--unix-socket"]).arg(&socket);
    let curl = curl.args(["-H", "Content-Type: application/json", "--data-binary", "@-"]);
    let answer = curl.arg("http://localhost/slurm/v0.0.38/job/submit").stdin(job.to_string()).run().success();
    daemon.signal(Signal::TERM);
    let _ = daemon.wait();
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).expect("slurmrestd answers in JSON");
    let id = answer["job_id"].as_u64().unwrap_or_else(|| panic!("no job: {answer:#}"));
    let job = lab.user("echo").arg(id.to_string()).run().success();
    let end = lab.submitted(&job).wait(LIMIT).completed();
    let _ = end.output_has("script\n").output_has("step busybox\n").output_has("from the image");
}

/// Slurm's own forwarding and xauth(1); a listener stands in for the X server, and greets whoever comes.
fn windows_reach_the_display_of_the_submitting_host(lab: &Lab) {
    let plugstack = fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let x11 =
        Cluster::builder("x11").nodes(1).extra("PrologFlags=X11").extra("X11Parameters=home_xauthority");
    let x11 = x11.plugstack(&plugstack).up().expect("a lab that forwards X11");
    let dir = x11.fresh_dir("home");
    // Display n is port 6000 + n (X(7)).
    let (server, display) = (10..99)
        .find_map(|n| Some((TcpListener::bind(("127.0.0.1", 6000 + n)).ok()?, format!("localhost:{n}"))))
        .expect("one of 89 ports is free");
    let authority = dir.join("authority");
    let xauth = x11.user("xauth").arg("-f").arg(&authority);
    let _ = xauth.args(["add", &display, ".", "00112233445566778899aabbccddeeff"]).run().success();
    let said = std::thread::spawn(move || {
        let (mut window, _) = server.accept()?;
        let mut text = [0; 6];
        window.read_exact(&mut text).map(|()| text)
    });
    let image = format!("--container-image={}", lab.system_image("busybox"));
    // The listener of the node is at localhost:N.0, and its cookie at home.
    let script = "test -s ~/.Xauthority && n=${DISPLAY#localhost:} && \
                  echo hello | nc localhost $((6000 + ${n%.*})) && echo sent from $IMAGE_NAME";
    let srun = x11.user("srun").env("DISPLAY", &display).env("XAUTHORITY", &authority);
    let _ = srun.args(["--x11", &image, "sh", "-c", script]).run().success().stdout_is("sent from busybox");
    assert_eq!(said.join().expect("no panic").expect("a window came"), *b"hello\n");
    x11.assert_nodes_idle();
}
