//! The plugin's meeting with Slurm: which options win, what travels and what is forgotten, what a wrong set-up may
//! and may not break, and that one file serves every release.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::{Cluster, Cmd};
use rustix::process::{kill_process_group, Pid, Signal};

use crate::lab::Lab;
use crate::save::{saver, BIG};

crate::tests![
    the_command_line_replaces_the_scripts_image,
    mounts_of_script_and_command_line_add_up,
    a_job_submitted_from_a_job_does_not_inherit,
    options_without_an_image_warn_and_run,
    none_without_a_job_runs_on_the_host,
    a_left_over_request_is_forgotten,
    a_hostile_request_of_the_job_is_refused,
    a_hostile_request_on_a_node_fails_the_step,
    a_request_for_another_users_file_opens_nothing,
    a_wrong_argument_stops_containers_and_nothing_else,
    a_broken_site_file_leaves_other_jobs_alone,
    a_lost_image_server_is_explained,
    a_job_directory_behind_a_link_is_found,
    an_extern_step_is_left_alone,
    a_jobs_private_directories_are_respected,
    a_container_is_saved_with_the_jobs_private_directories,
    an_interrupt_ends_a_pull_and_its_submission,
    a_refused_submission_has_the_exit_code_of_sruns_errors,
    one_file_is_stamped_for_every_release,
];

const LIMIT: Duration = Duration::from_secs(60);
/// Says which image it runs in, if any.
const WHERE: &str = "echo host $IMAGE_NAME";

fn image(lab: &Lab, name: &str) -> String {
    format!("--container-image={}", lab.system_image(name))
}

/// A batch script that asks for the busybox image.
fn script(lab: &Lab, more: &str, body: &str) -> String {
    format!("#!/bin/sh\n#SBATCH {}\n{more}{body}\n", image(lab, "busybox"))
}

fn the_command_line_replaces_the_scripts_image(lab: &Lab) {
    let script = script(lab, "", &format!("srun sh -c '{WHERE}'"));
    let end = lab.sbatch(&[&image(lab, "no-passwd")], &script).wait(LIMIT).completed();
    let _ = end.output_has("host no-passwd\n").output_lacks("busybox");
    let end = lab.sbatch(&["--container-image=none"], &script).wait(LIMIT).completed();
    let _ = end.output_has("host\n").output_lacks("busybox");
}

fn mounts_of_script_and_command_line_add_up(lab: &Lab) {
    let script = script(
        lab,
        "#SBATCH --mount=/usr:/one:ro\n#SBATCH --mount=/usr:/two:ro\n",
        "srun ls -d /one /two /three",
    );
    let end = lab.sbatch(&["--mount=/usr:/three:ro"], &script).wait(LIMIT).completed();
    let _ = end.output_has("/one\n").output_has("/two\n").output_has("/three\n");
}

fn a_job_submitted_from_a_job_does_not_inherit(lab: &Lab) {
    let inner = format!("sbatch --wait --output=inner.out --wrap 'srun sh -c \"{WHERE}\"'; cat inner.out");
    let end = lab.sbatch(&[], &script(lab, "", &inner)).wait(LIMIT).completed();
    let _ = end.output_has("host\n").output_lacks("busybox");
}

fn options_without_an_image_warn_and_run(lab: &Lab) {
    let run = lab.srun(&["--mount=/usr:/one", "--container-pull=never", "sh", "-c", WHERE]).run().success();
    let run = run.stdout_is("host");
    let _ = run.stderr_has("grus: without --container-image").stderr_has("--mount, --container-pull");
}

fn none_without_a_job_runs_on_the_host(lab: &Lab) {
    let run = lab.srun(&["--container-image=none", "--mount=/usr:/one", "sh", "-c", WHERE]).run().success();
    let _ = run.stdout_is("host").stderr_lacks("grus");
}

fn a_left_over_request_is_forgotten(lab: &Lab) {
    let run = lab.srun(&["sh", "-c", WHERE]).env("SLURM_GRUS_REQUEST", "left over").run().success();
    let _ = run.stdout_is("host").stderr_lacks("grus");
    let left = lab.user("sbatch").env("SLURM_SPANK_GRUS_REQUEST", "left over");
    let sbatch = left.env("SLURM_GRUS_REQUEST", "left over").args(["--parsable", "--output=batch-%j.out"]);
    let submitted = sbatch.stdin(format!("#!/bin/sh\nsrun sh -c '{WHERE}'\n")).run().success();
    let _ = lab.submitted(&submitted).wait(LIMIT).completed().output_has("host\n");
}

fn a_hostile_request_of_the_job_is_refused(lab: &Lab) {
    for hostile in ["junk", "{\"image\":{\"file\":\"../etc\"}}", &"[".repeat(90_000), "{\"unknown\":1}"] {
        let run = lab.srun(&["sh", "-c", WHERE]).env("SLURM_SPANK_GRUS_REQUEST", hostile).run().failure();
        let run = run.stdout_is("").stderr_has("grus: SLURM_GRUS_REQUEST does not hold container options");
        let _ = run.stderr_has("hint: install one release of Grus on all machines");
    }
}

fn a_hostile_request_on_a_node_fails_the_step(lab: &Lab) {
    // --export sets the variable after the plugin has had its say in srun.
    for hostile in ["junk", "{\"image\":{\"file\":\"/etc/passwd\"}}", "{\"image\":7}"] {
        let export = format!("--export=ALL,SLURM_GRUS_REQUEST={hostile}");
        let run = lab.srun(&[&export, "sh", "-c", WHERE]).run().failure().stdout_is("");
        let _ = run.stderr_has(&format!("grus: {}: ", lab.node(1))).stderr_has("hint: ");
    }
    lab.assert_nodes_idle();
}

fn a_request_for_another_users_file_opens_nothing(lab: &Lab) {
    let request = r#"{"image":{"file":"/etc/shadow"},"resolved":{"path":"/etc/shadow","digest":null}}"#;
    let run = lab.srun(&["sh", "-c", WHERE]).env("SLURM_SPANK_GRUS_REQUEST", request).run().failure();
    let _ = run.stdout_is("").stderr_has("/etc/shadow").stderr_has("Permission denied");
    lab.assert_nodes_idle();
}

fn a_wrong_argument_stops_containers_and_nothing_else(lab: &Lab) {
    for word in ["required", "optional"] {
        lab.with_plugstack(&format!("{word} PLUGIN confg=SITE\n"), || {
            let _ = lab.srun(&["sh", "-c", WHERE]).run().success().stdout_is("host");
            let run = lab.srun(&[&image(lab, "busybox"), "sh", "-c", WHERE]).run().failure().stdout_is("");
            let _ = run.stderr_has("grus: plugstack.conf gives spank_grus.so the argument 'confg=");
        });
    }
}

fn a_broken_site_file_leaves_other_jobs_alone(lab: &Lab) {
    lab.with_site("no TOML at all\n", || {
        let run = lab.srun(&["-N2", "sh", "-c", WHERE]).run().success().stdout_is("host\nhost");
        let _ = run.stderr_lacks("grus");
        let end = lab.sbatch(&["-N2"], &format!("#!/bin/sh\nsrun sh -c '{WHERE}'\n")).wait(LIMIT).completed();
        let _ = end.output_has("host\nhost\n").output_lacks("grus");
    });
}

pub fn a_lost_image_server_is_explained(lab: &Lab) {
    let file = lab.fresh_dir("served").join("image.squashfs");
    std::fs::copy(lab.system_file("busybox"), &file).expect("root can read the repository");
    lab.give(&file);
    let before = lab.snapshot();
    let option = format!("--container-image={}", file.display());
    let started = lab.work_dir().join("served/started");
    // What the shell has not read yet can no longer be read. The loop ends with its body's status, so it is not
    // left to say how the step ended.
    let body = format!(
        "touch {}; while sleep 0.1 && ls -lR /usr /opt >/dev/null; do :; done; exit 3",
        started.display()
    );
    let running = lab.srun(&[&option, "sh", "-c", &body]).spawn();
    let up = wait_until(Duration::from_secs(20), || started.exists());
    assert!(up, "the step did not start");
    before.kill_new(Signal::KILL, |command| command.contains("squashfuse"));
    let run =
        running.wait().failure().stderr_has("squashfuse_ll, which served the image to this step, has ended");
    let _ = run.stderr_has("hint: ");
    before.assert_nothing_left();
    lab.assert_nodes_idle();
}

/// The link is the host's; in the container there is only the directory it leads to.
fn a_job_directory_behind_a_link_is_found(lab: &Lab) {
    let dir = lab.fresh_dir("behind");
    let link = lab.dir().join("link");
    std::os::unix::fs::symlink(&dir, &link).expect("the lab's directory is writable");
    let chdir = format!("--chdir={}", link.display());
    let run = lab.srun(&["-N2", &chdir, &image(lab, "busybox"), "/bin/pwd"]).run().success();
    std::fs::remove_file(link).expect("it was made above");
    let _ = run.stdout_is(&format!("{0}\n{0}", dir.display()));
}

/// PrologFlags=Contain gives each job an extern step, which has no tasks of its own.
fn an_extern_step_is_left_alone(lab: &Lab) {
    let plugstack = std::fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let contain =
        Cluster::builder("contain").nodes(1).extra("PrologFlags=Contain").plugstack(&plugstack).up();
    let contain = contain.expect("a lab with extern steps comes up");
    let image = image(lab, "busybox");
    let run = contain.user("srun").args([&image, "sh", "-c", WHERE]).run().success();
    let _ = run.stdout_is("host busybox");
    let run = contain.user("srun").args([&image, "--mount=/no/such/dir", "true"]).run().failure();
    let _ = run.stderr_has("grus: contain1: cannot bind /no/such/dir");
    contain.assert_nodes_idle();
}

/// A cluster where each job has a /tmp and a /dev/shm of its own (job_container/tmpfs); slurmstepd itself is outside of them
/// in this release, a job's epilog inside.
pub fn with_private_directories(lab: &Lab, name: &str) -> Cluster {
    let plugstack = std::fs::read_to_string(lab.dir().join("etc/plugstack.conf")).expect("the lab has one");
    let private = Cluster::builder(name).nodes(1).extra("PrologFlags=Contain").plugstack(&plugstack);
    let private = private.extra("DebugFlags=NO_CONF_HASH").up().expect("a lab with extern steps comes up");
    let base = private.dir().join("private");
    std::fs::create_dir(&base).expect("a fresh directory");
    let conf = format!("AutoBasePath=true\nBasePath={}\n", base.display());
    std::fs::write(private.dir().join("etc/job_container.conf"), conf).expect("root can write");
    let slurm_conf = std::fs::read_to_string(private.slurm_conf()).expect("the lab has one");
    let with = slurm_conf + "JobContainerType=job_container/tmpfs\n";
    std::fs::write(private.slurm_conf(), with).expect("root can write");
    private.restart_slurmd(1).expect("slurmd starts again");
    private
}

/// An image of the user's own.
fn mine(lab: &Lab, private: &Cluster) -> PathBuf {
    let mine = private.work_dir().join("mine.squashfs");
    std::fs::copy(lab.system_file("busybox"), &mine).expect("root can read the repository");
    private.give(&mine);
    mine
}

fn a_jobs_private_directories_are_respected(lab: &Lab) {
    let private = with_private_directories(lab, "private");
    let mine = mine(lab, &private);
    for image in [image(lab, "busybox"), format!("--container-image={}", mine.display())] {
        let steps = format!(
            "srun sh -c 'echo host >/tmp/grus-host; echo host >/dev/shm/grus-host'; \
             srun {image} sh -c 'cat /tmp/grus-host /dev/shm/grus-host; echo container >/tmp/grus-container'; \
             srun cat /tmp/grus-container"
        );
        let run = private.user("salloc").args(["-N1", "sh", "-c", &steps]).run().success();
        let _ = run.stdout_is("host\nhost\ncontainer");
        for seen in ["/tmp/grus-host", "/tmp/grus-container", "/dev/shm/grus-host"] {
            assert!(!PathBuf::from(seen).exists(), "{seen} is on the host");
        }
    }
    private.assert_nodes_idle();
}

/// Nor does the program that saves, which is the user's own process, see what the job's mounts hide.
fn a_container_is_saved_with_the_jobs_private_directories(lab: &Lab) {
    let private = with_private_directories(lab, "savepriv");
    let before = lab.snapshot();
    let hidden = PathBuf::from("/tmp/grus-save-hidden");
    std::fs::create_dir_all(&hidden).expect("root can write");
    private.give(&hidden);
    let script = format!(
        "#!/bin/sh
        mkdir /tmp/mine; cp {} /tmp/mine/own.squashfs
        srun {image} --writable-volatile=/opt --container-save=/tmp/mine/new.squashfs \\
            sh -c '{BIG}; echo new >/opt/new'
        srun --container-image=/tmp/mine/new.squashfs cat /opt/new
        srun --container-image=/tmp/mine/own.squashfs --container-save=/tmp/mine/copy.squashfs true
        cmp /tmp/mine/own.squashfs /tmp/mine/copy.squashfs && echo same
        srun {image} --container-save={}/x.squashfs echo worked
        exit 0",
        mine(lab, &private).display(),
        hidden.display(),
        image = image(lab, "busybox")
    );
    let job = private.sbatch(&[], &script);
    let mut view = None;
    wait_until(LIMIT, || {
        view = saver().and_then(|process| std::fs::read_link(process.join("ns/mnt")).ok());
        view.is_some()
    });
    let end = job.wait(LIMIT);
    let saved = std::fs::read_dir(&hidden).expect("a directory").count();
    std::fs::remove_dir_all(&hidden).expect("it was made above");
    let end = end.completed().output_has("new\n").output_has("same\n").output_lacks("worked");
    let _ = end.output_has("/tmp/grus-save-hidden is no directory here");
    assert_eq!(saved, 0);
    assert!(!PathBuf::from("/tmp/mine").exists(), "it is on the host");
    assert_ne!(view.expect("it takes a while"), std::fs::read_link("/proc/self/ns/mnt").expect("proc"));
    private.assert_nodes_idle();
    before.assert_nothing_left();
}

/// srun blocks the terminal's signals before it loads plugins: what it starts would inherit that.
fn an_interrupt_ends_a_pull_and_its_submission(lab: &Lab) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    silent.set_nonblocking(true).expect("a socket");
    let address = silent.local_addr().expect("a bound socket");
    let before = lab.snapshot();
    for (program, work) in [("srun", "true"), ("sbatch", "--wrap=true"), ("salloc", "true")] {
        let command = lab.user(program).arg(format!("--container-image={address}/some/image:1"));
        let running = command.arg(work).spawn();
        // A registry that never answers: once the pull has called, it waits.
        let mut call = None;
        let called = wait_until(Duration::from_secs(20), || {
            call = call.take().or_else(|| silent.accept().ok());
            call.is_some()
        });
        assert!(called, "{program} pulls nothing");
        let group = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process_group(group, Signal::INT).expect("it still runs");
        let _ = running.wait().killed_by(2).stderr_has("interrupted");
    }
    before.assert_nothing_left();
}

fn a_refused_submission_has_the_exit_code_of_sruns_errors(lab: &Lab) {
    let bad = ["--container-image=UPPER//case", "true"];
    let _ = lab.srun(&bad).run().exit_code(1);
    let _ = lab.srun(&bad).env("SLURM_EXIT_ERROR", "77").run().exit_code(77);
}

/// A program with the functions of Slurm that the plugin needs and a version to choose: what dlopen and the check of
/// `plugin_version` see in 20.11 to 26.11.
fn one_file_is_stamped_for_every_release(lab: &Lab) {
    let releases = [
        (35, "0"),
        (36, "140b00"),
        (37, "150800"),
        (38, "160500"),
        (39, "170200"),
        (40, "170b00"),
        (41, "180500"),
        (42, "180b00"),
        (43, "190500"),
        (44, "190b00"),
        (45, "1a0500"),
        (46, "1a0b00"),
    ];
    let host = fake_host(lab);
    for (api, version) in releases {
        let run = Cmd::new(&host).arg(lab.plugin()).env("API", api.to_string()).run().success();
        let _ = run.stdout_is(version);
    }
}

fn fake_host(lab: &Lab) -> PathBuf {
    let dir = lab.fresh_dir("fake-host");
    let needed = Cmd::new("nm").args(["-D", "--undefined-only"]).arg(lab.plugin()).run().success();
    let names = needed.stdout.lines().filter_map(|line| line.split_whitespace().last());
    let stubs: String = names
        .filter(|name| name.starts_with("spank_") || name.starts_with("slurm_"))
        .map(|name| format!("int {name}(void) {{ return 0; }}\n"))
        .collect();
    assert!(stubs.contains("spank_get_item"), "the plugin needs Slurm's functions: {stubs}");
    let main = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        long slurm_api_version(void) { return strtol(getenv("API"), 0, 10) << 16 | 0x0105; }
        int main(int argc, char **argv) {
            void *plugin = dlopen(argv[1], RTLD_NOW);
            if (!plugin) { puts(dlerror()); return 1; }
            printf("%x\n", *(unsigned *) dlsym(plugin, "plugin_version"));
            return 0;
        }
    "#;
    let (source, program) = (dir.join("host.c"), dir.join("host"));
    std::fs::write(&source, stubs + main).expect("a fresh directory");
    let compile = Cmd::new("cc").args(["-rdynamic", "-o"]).arg(&program).arg(&source).arg("-ldl");
    let _ = compile.run().success();
    program
}
