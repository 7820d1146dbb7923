//! GPUs of steps: Slurm hands out stand-in device nodes (mem(4)'s `full` and `zero` under other names) as GRES, a CDI file
//! describes them, and each step has its own. No GPU is here; what a driver's files do is shown by `enter/tests/devices.rs`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use grus_tests::{Cluster, Cmd, Fuse};

use crate::lab::Lab;

crate::tests![
    two_steps_on_a_node_have_their_own_gpu,
    where_slurm_constrains_nothing_no_number_changes_its_meaning,
    a_step_without_gpus_gets_none_though_its_job_has_some,
    tasks_keep_what_slurm_binds_them_to,
    devices_are_chosen_on_the_command_line,
    imex_channels_and_mig_rights_are_as_on_the_host,
    without_slurm_the_same_files_say_what_comes,
];

/// A directory of /dev with two device nodes, and the file that describes them; gone when dropped.
struct Gpus {
    dev: PathBuf,
    cdi: PathBuf,
}

impl Gpus {
    fn new(lab: &Lab, name: &str) -> Self {
        let gpus =
            Self { dev: format!("/dev/grus-{name}").into(), cdi: lab.dir().join(format!("cdi-{name}")) };
        let _ = fs::remove_dir_all(&gpus.dev);
        fs::create_dir(&gpus.dev).expect("devtmpfs");
        for (file, minor) in gpus.files().iter().zip(["7", "5"]) {
            let _ = Cmd::new("mknod").arg("--mode=666").arg(file).args(["c", "1", minor]).run().success();
        }
        let device = |(n, file): (usize, &PathBuf)| {
            let file = file.display();
            format!(
                r#"{{"name":"{n}","containerEdits":{{"env":["TOLD_{n}=yes"],"deviceNodes":[{{"path":"{file}"}}]}}}}"#
            )
        };
        let devices: Vec<String> = gpus.files().iter().enumerate().map(device).collect();
        let text =
            format!(r#"{{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{}]}}"#, devices.join(","));
        fs::create_dir_all(&gpus.cdi).expect("lab");
        fs::write(gpus.cdi.join("gpus.json"), text).expect("lab");
        gpus
    }

    fn files(&self) -> [PathBuf; 2] {
        ["gpu0", "gpu1"].map(|name| self.dev.join(name))
    }

    /// A shell's words that print the step's GPUs, CUDA's, what the file of devices told, and what can be opened.
    fn report(&self) -> String {
        let dev = self.dev.display();
        format!(
            "echo gpus=$SLURM_STEP_GPUS cuda=$CUDA_VISIBLE_DEVICES told=$TOLD_0,$TOLD_1 \
             opens=$(for n in 0 1; do head -c1 {dev}/gpu$n >/dev/null 2>&1 && echo -n $n; done)"
        )
    }

    /// Runs `body` on a cluster of one node that has these GPUs, with the site's file naming their description.
    fn on(&self, lab: &Lab, name: &str, constrain: bool, body: impl FnOnce(&Cluster)) {
        let plugstack = format!("required {} config={}\n", lab.plugin().display(), lab.site_file().display());
        let with = Cluster::builder(name).nodes(1).gpus(&self.files()).plugstack(&plugstack);
        let with = if constrain { with.constrain_devices() } else { with };
        lab.with_site(&format!("cdi.dirs = [{:?}]\n", self.cdi), || {
            let cluster = with.up().expect("a lab with GPUs comes up");
            body(&cluster);
            cluster.assert_nodes_idle();
        });
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dev);
    }
}

/// The lines of two steps that run side by side, each with a GPU of the job's two.
fn side_by_side(cluster: &Cluster, image: &str, report: &str) -> Vec<String> {
    let step =
        format!("srun -n1 --exact --gres=gpu:1 --container-image={image} sh -c '{report}; sleep 3' &\n");
    let script = format!("#!/bin/sh\n{step}{step}wait\n");
    let job = cluster.sbatch(&["-n2", "--gres=gpu:2"], &script);
    let end = job.wait(Duration::from_secs(60)).completed();
    let mut lines: Vec<String> =
        end.output.lines().filter(|l| l.starts_with("gpus=")).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn two_steps_on_a_node_have_their_own_gpu(lab: &Lab) {
    let gpus = Gpus::new(lab, "own");
    let image = lab.system_image("busybox");
    gpus.on(lab, "gpus", true, |cluster| {
        let lines = side_by_side(cluster, &image, &gpus.report());
        assert_eq!(lines, ["gpus=0 cuda=0 told=yes, opens=0", "gpus=1 cuda=0 told=,yes opens=1"]);
    });
}

fn where_slurm_constrains_nothing_no_number_changes_its_meaning(lab: &Lab) {
    let gpus = Gpus::new(lab, "free");
    let image = lab.system_image("busybox");
    gpus.on(lab, "gpusfree", false, |cluster| {
        let lines = side_by_side(cluster, &image, &gpus.report());
        // The first step's number stays right without the other GPU, which is hidden; the second's would not.
        assert_eq!(lines, ["gpus=0 cuda=0 told=yes, opens=0", "gpus=1 cuda=1 told=,yes opens=01"]);
    });
}

fn a_step_without_gpus_gets_none_though_its_job_has_some(lab: &Lab) {
    let gpus = Gpus::new(lab, "none");
    let image = lab.system_image("busybox");
    gpus.on(lab, "gpusnone", false, |cluster| {
        let script = format!(
            "#!/bin/sh\nsrun -n1 --gres=none --container-image={image} sh -c 'echo step told=$TOLD_0,$TOLD_1'\n"
        );
        let job = cluster.sbatch(&["-n1", "--gres=gpu:1"], &script);
        let _ = job.wait(Duration::from_secs(60)).completed().output_has("step told=,\n");
        // The script itself, inside, has what its job has.
        let script = "#!/bin/sh\necho script told=$TOLD_0,$TOLD_1\n";
        let image = format!("--container-image={image}");
        let job = cluster.sbatch(&["-n1", "--gres=gpu:1", "--container-batch", &image], script);
        let _ = job.wait(Duration::from_secs(60)).completed().output_has("script told=yes,\n");
    });
}

fn tasks_keep_what_slurm_binds_them_to(lab: &Lab) {
    let gpus = Gpus::new(lab, "bound");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    gpus.on(lab, "gpusbound", true, |cluster| {
        let lines = |more: &[&str]| {
            let srun =
                cluster.user("srun").args(["-n2", "--gres=gpu:2", "--gpu-bind=map_gpu:0,1"]).args(more);
            srun.args(["sh", "-c", "echo task $SLURM_LOCALID has $CUDA_VISIBLE_DEVICES of $SLURM_STEP_GPUS"])
                .run()
                .success()
                .sorted_lines()
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let host = lines(&[]);
        assert_eq!(lines(&[&image]), host);
        assert_ne!(host[0].split(" of ").next(), host[1].split(" of ").next(), "{host:?}");
    });
}

fn devices_are_chosen_on_the_command_line(lab: &Lab) {
    let gpus = Gpus::new(lab, "chosen");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    gpus.on(lab, "gpuschosen", true, |cluster| {
        let srun = |args: &[&str]| {
            cluster.user("srun").arg(&image).args(args).args(["sh", "-c", &gpus.report()]).run()
        };
        let _ = srun(&["--gres=gpu:1", "--container-gpu=none"]).success().stdout_has("told=, ");
        let _ = srun(&["--gres=gpu:2", "--container-gpu=all"]).success().stdout_has("told=yes,yes opens=01");
        let _ =
            srun(&["--gres=gpu:2", "--container-device=nvidia.com/gpu=1"]).success().stdout_has("told=,yes ");
        let refused = srun(&["--gres=gpu:1", "--container-device=nvidia.com/gpu=1"]);
        let _ = refused
            .failure()
            .stderr_has("Slurm gave this step nvidia.com/gpu=0")
            .stderr_has("hint: ask Slurm for it");
        let _ = srun(&["--container-device=amd.com/gpu=0"]).failure().stderr_has("and no amd.com/gpu");
    });
}

/// Stand-ins for IMEX channels, on a file system of their own as switch/nvidia_imex mounts one for a job, and for the
/// rights to MIG instances; gone when dropped.
struct Capabilities;

const CHANNELS: &str = "/dev/nvidia-caps-imex-channels";
const RIGHTS: &str = "/dev/nvidia-caps";

impl Capabilities {
    fn new() -> Self {
        for dir in [CHANNELS, RIGHTS] {
            fs::create_dir(dir).expect("no driver of NVIDIA's is here");
        }
        let made = Self;
        let _ = Cmd::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "imex", CHANNELS]).run().success();
        for node in
            [format!("{CHANNELS}/channel7"), format!("{RIGHTS}/nvidia-cap1"), format!("{RIGHTS}/nvidia-cap2")]
        {
            let _ = Cmd::new("mknod").arg("--mode=666").arg(node).args(["c", "1", "7"]).run().success();
        }
        made
    }
}

impl Drop for Capabilities {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg(CHANNELS).run();
        for dir in [CHANNELS, RIGHTS] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn imex_channels_and_mig_rights_are_as_on_the_host(lab: &Lab) {
    let _capabilities = Capabilities::new();
    let gpus = Gpus::new(lab, "imex");
    // The GPU that the step is not given has a right of its own, as MIG instances have, and names the job's channel.
    let text = fs::read_to_string(gpus.cdi.join("gpus.json")).expect("lab");
    let other = gpus.files()[1].display().to_string();
    let more = [format!("{RIGHTS}/nvidia-cap2"), format!("{CHANNELS}/channel7")];
    let more = more.map(|path| format!(r#",{{"path":"{path}"}}"#)).concat();
    let text = text.replace(&format!(r#"{{"path":"{other}"}}"#), &format!(r#"{{"path":"{other}"}}{more}"#));
    fs::write(gpus.cdi.join("gpus.json"), text).expect("lab");
    let image = format!("--container-image={}", lab.system_image("busybox"));
    let look = format!(
        "ls {CHANNELS} {RIGHTS}; for node in {CHANNELS}/channel7 {RIGHTS}/nvidia-cap1 {RIGHTS}/nvidia-cap2; do \
         head -c1 $node >/dev/null 2>&1 && echo opens $node; done; true"
    );
    gpus.on(lab, "gpusimex", false, |cluster| {
        let srun = |args: &[&str]| {
            let run = cluster.user("srun").args(args).args(["sh", "-c", &look]).run().success();
            run.stdout
        };
        let host = srun(&["--gres=gpu:1"]);
        assert_eq!(host.matches("opens ").count(), 3, "{host}");
        assert_eq!(srun(&[&image]), host, "without a GPU");
        assert_eq!(srun(&[&image, "--gres=gpu:2"]), host, "with both");
        let one = srun(&[&image, "--gres=gpu:1"]);
        assert_eq!(
            one,
            host.replace(&format!("opens {RIGHTS}/nvidia-cap2\n"), ""),
            "the other's right is hidden"
        );
    });
}

fn without_slurm_the_same_files_say_what_comes(lab: &Lab) {
    let gpus = Gpus::new(lab, "run");
    let image = lab.system_image("busybox");
    let told = format!("echo told=$TOLD_0,$TOLD_1 $({}) in $(readlink /proc/self/ns/mnt)", gpus.report());
    let grus = |args: &[&str]| lab.grus(&["run"]).args(args).arg(&image).args(["sh", "-c", &told]).run();
    for yes in [true, false] {
        let _fuse = Fuse::for_everyone(yes);
        lab.with_site(&format!("cdi.dirs = [{:?}]\n", gpus.cdi), || {
            let _ = grus(&[]).success().stdout_has("told=, ").stderr_lacks("warning");
            let _ = grus(&["--gpus=all"]).success().stdout_has("told=yes,yes ").stdout_has("opens=01");
            let _ = grus(&["--gpus=device=1"]).success().stdout_has("told=,yes ");
            let _ = grus(&["--gpus=\"device=0,1\""]).success().stdout_has("told=yes,yes ");
            let _ = grus(&["--device=nvidia.com/gpu=0"]).success().stdout_has("told=yes, ");
            let bound = format!("--device={}:/dev/grus-other", gpus.files()[0].display());
            let other = lab.grus(&["run", &bound, &image, "head", "-c1", "/dev/grus-other"]).run();
            // /dev is the host's: nothing can be made in it.
            let _ = other.exit_code(125).stderr_has("/dev/grus-other");
            let _ = grus(&["--gpus=device=7"]).exit_code(125).stderr_has("this node has nvidia.com/gpu 0, 1");
            // What Slurm gave a step decides, whoever asks.
            let granted = |args: &[&str]| {
                let step = lab.grus(&["run"]).args(args).arg(&image).args(["sh", "-c", &told]);
                step.env("SLURM_STEP_ID", "0")
                    .env("SLURM_STEP_GPUS", "1")
                    .env("CUDA_VISIBLE_DEVICES", "0")
                    .run()
            };
            let _ = granted(&[]).success().stdout_has("told=,yes ").stdout_has("opens=1");
            let _ = granted(&["--device=nvidia.com/gpu=0"]).exit_code(125).stderr_has("Slurm gave this step");
            let ranks = lab.user("sh").env("GRUS_CONFIG", lab.site_file()).env("MPI_LOCALNRANKS", "2");
            let ranks = ranks.args(["-c", "\"$@\" & \"$@\" & wait", "sh"]).arg(lab.grus_program());
            let script = format!("{told}; sleep 1");
            let ranks = ranks.args(["run", "--gpus=all", &image, "sh", "-c", &script]).run().success();
            let lines = ranks.sorted_lines();
            assert!(
                lines.len() == 2 && lines[0] == lines[1] && lines[0].contains("told=yes,yes "),
                "{ranks}"
            );
        });
    }
    let _ = lab.grus(&["prune"]).run().success();
}
