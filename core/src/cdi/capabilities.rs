//! NVIDIA_DRIVER_CAPABILITIES: which parts of NVIDIA's driver an image says it uses.

use crate::path::AbsPath;

/// The parts, and beginnings of the names of their files (libnvidia-container's nvc_info.c). A file that is in no part
/// always comes.
const PARTS: &[(&str, &[&str])] = &[
    (
        "utility",
        &["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "libnvidia-cfg.", "libnvidia-nscq."],
    ),
    (
        "compute",
        &[
            "nvidia-cuda-mps-",
            "libcudadebugger.",
            "libnvidia-opencl.",
            "libnvidia-ptxjitcompiler.",
            "libnvidia-fatbinaryloader.",
            "libnvidia-nvvm",
            "libnvidia-compiler.",
            "libnvidia-pkcs11",
        ],
    ),
    ("video", &["libnvcuvid.", "libnvidia-encode.", "libnvidia-opticalflow.", "libvdpau_nvidia."]),
    (
        "graphics",
        &[
            "libGL",
            "libEGL",
            "libnvidia-egl",
            "libnvidia-gl",
            "libnvidia-rtcore.",
            "libnvidia-vulkan",
            "libnvidia-fbc.",
            "libnvidia-ifr.",
            "libnvoptix.",
            "nvoptix.bin",
            "libnvidia-allocator.",
            "libnvidia-wayland",
            "10_nvidia",
            "15_nvidia",
            "20_nvidia",
            "nvidia_icd",
            "nvidia_layers",
            "nvidia-drm_gbm",
            "nvidia_drv",
            "libglxserver_nvidia",
        ],
    ),
    ("ngx", &["libnvidia-ngx.", "nvidia-ngx-updater"]),
];

/// The parts that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Option<Vec<String>>);

impl Capabilities {
    /// From the variable's value. Unset, empty or `all`: every part.
    pub fn of(value: Option<&str>) -> Self {
        let words: Vec<String> = value
            .unwrap_or_default()
            .split(',')
            .map(|w| w.trim().to_lowercase())
            .filter(|w| !w.is_empty())
            .collect();
        // 'display' is what of graphics needs a screen; the files are the same.
        let all = words.is_empty() || words.iter().any(|w| w == "all");
        Self((!all).then_some(words))
    }

    /// Whether a file of the driver comes.
    pub fn want(&self, file: &AbsPath) -> bool {
        let Some(words) = &self.0 else { return true };
        let name = file.components().next_back().unwrap_or_default();
        let part = PARTS.iter().find(|(_, names)| names.iter().any(|start| name.starts_with(start)));
        part.is_none_or(|(part, _)| {
            words.iter().any(|w| w == part || (*part == "graphics" && w == "display"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_gets_the_parts_it_names_and_what_belongs_to_none() {
        let want = |value, file: &str| {
            Capabilities::of(value).want(&AbsPath::parse(&format!("/usr/lib/{file}")).expect("static"))
        };
        for file in ["libcuda.so.1", "libnvcuvid.so.575", "libnvidia-ml.so.1", "nvidia-smi", "gsp_ga10x.bin"]
        {
            assert!(
                [None, Some(""), Some("all"), Some("compute,all")].iter().all(|v| want(*v, file)),
                "{file}"
            );
        }
        let some = Some("compute, utility");
        for (file, wanted) in [
            ("libcuda.so.575", true),
            ("libnvidia-ptxjitcompiler.so.575", true),
            ("nvidia-smi", true),
            ("libnvcuvid.so.575", false),
            ("libnvidia-glcore.so.575", false),
            ("libEGL_nvidia.so.0", false),
            ("gsp_ga10x.bin", true),
        ] {
            assert_eq!(want(some, file), wanted, "{file}");
        }
        assert!(want(Some("display"), "libGLX_nvidia.so.0") && !want(Some("video"), "nvidia-smi"));
    }
}
