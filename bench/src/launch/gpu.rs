//! A stand-in for a GPU's driver: as many files as NVIDIA's, small libraries with the names of its own, and the file that
//! nvidia-ctk would write of them. No GPU is here; what is measured is what bringing the files in costs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};

const VERSION: &str = "575.57.08";
const PLACE: &str = "/usr/lib/x86_64-linux-gnu";

/// Libraries of a 575 driver with graphics, without `lib` and version.
const LIBRARIES: &[&str] = &[
    "EGL_nvidia",
    "GLESv1_CM_nvidia",
    "GLESv2_nvidia",
    "GLX_nvidia",
    "cuda",
    "cudadebugger",
    "nvcuvid",
    "nvidia-allocator",
    "nvidia-cfg",
    "nvidia-eglcore",
    "nvidia-egl-gbm",
    "nvidia-egl-wayland",
    "nvidia-egl-xcb",
    "nvidia-egl-xlib",
    "nvidia-encode",
    "nvidia-fbc",
    "nvidia-glcore",
    "nvidia-glsi",
    "nvidia-glvkspirv",
    "nvidia-gpucomp",
    "nvidia-gtk2",
    "nvidia-gtk3",
    "nvidia-ml",
    "nvidia-ngx",
    "nvidia-nscq",
    "nvidia-nvvm",
    "nvidia-nvvm70",
    "nvidia-opencl",
    "nvidia-opticalflow",
    "nvidia-pkcs11",
    "nvidia-pkcs11-openssl3",
    "nvidia-present",
    "nvidia-ptxjitcompiler",
    "nvidia-rtcore",
    "nvidia-sandboxutils",
    "nvidia-tls",
    "nvidia-vksc-core",
    "nvidia-wayland-client",
    "nvoptix",
    "vdpau_nvidia",
    "glxserver_nvidia",
    "nvidia-api",
    "nvidia-vulkan-producer",
    "cuda_shim",
];

const PROGRAMS: &[&str] = &[
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
];

const OTHERS: &[&str] = &[
    "/lib/firmware/nvidia/575.57.08/gsp_ga10x.bin",
    "/lib/firmware/nvidia/575.57.08/gsp_tu10x.bin",
    "/usr/share/nvidia/nvoptix.bin",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
    "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
    "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
    "/usr/share/nvidia/nvidia-application-profiles-575.57.08-rc",
];

/// What nvidia-ctk writes before the mounts; nodes that every machine has stand for the GPU's.
const HEAD: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/null
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    deviceNodes:
        - path: /dev/zero
        - path: /dev/full
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - create-symlinks
            - --link
            - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - enable-cuda-compat
            - --host-driver-version=575.57.08
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - update-ldcache
            - --folder
            - /usr/lib/x86_64-linux-gnu
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - disable-device-node-modification
    mounts:
"#;

fn mount(file: &Path, at: &str) -> String {
    format!(
        "        - hostPath: {}
          containerPath: {at}
          options:
            - ro
            - nosuid
            - nodev
            - rbind
            - rprivate
",
        file.display()
    )
}

/// Makes the driver's files in `dir/driver`, and their description in `dir`.
pub fn driver(dir: &Path) -> Result<()> {
    let files = dir.join("driver");
    fs::create_dir_all(&files)?;
    let mut text = HEAD.to_owned();
    let source = files.join("source.c");
    let function = |n| format!("int cuFunctionNumber{n}(void) {{ return {n}; }}\n");
    fs::write(&source, (0..400).map(function).collect::<String>())?;
    for name in LIBRARIES {
        let file = files.join(format!("lib{name}.so.{VERSION}"));
        let soname = format!("-Wl,-soname,lib{name}.so.1");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-nostdlib", &soname, "-o"]).arg(&file).arg(&source);
        ensure!(cc.status().context("cc")?.success(), "a library does not compile");
        text.push_str(&mount(&file, &format!("{PLACE}/lib{name}.so.{VERSION}")));
    }
    for name in PROGRAMS {
        fs::copy("/bin/true", files.join(name))?;
        text.push_str(&mount(&files.join(name), &format!("/usr/bin/{name}")));
    }
    for at in OTHERS {
        let file = files.join(Path::new(at).file_name().context("a name")?);
        fs::write(&file, "")?;
        text.push_str(&mount(&file, at));
    }
    Ok(fs::write(dir.join("nvidia.yaml"), text)?)
}
