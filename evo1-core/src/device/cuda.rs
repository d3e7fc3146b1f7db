//! The part of NVIDIA's toolkit that kernels for CUDA are compiled with, and where it may be.
//!
//! The feature `cuda` compiles them by NVRTC, which wants CUDA's headers; `cuda-llvm` wants libdevice alone, the
//! implementation of `exp`, `tanh` and `erf`. All of it comes with the toolkit, and with packages on PyPI.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The variable that names the toolkit's folder.
pub const CUDA_PATH: &str = "CUDA_PATH";

/// The variable that names folders of libraries.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// What is wanted of a toolkit, within it.
const PIECE: &str = if cfg!(feature = "cuda") { "include/cuda_fp16.h" } else { "nvvm/libdevice/libdevice.10.bc" };

/// The packages on PyPI that bring it, for CUDA 13 and for CUDA 12.
const ON_PYPI: [&str; 2] = if cfg!(feature = "cuda") {
    [
        "nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl",
        "nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12",
    ]
} else {
    ["nvidia-nvvm", "nvidia-cuda-nvcc-cu12"]
};

/// Where CubeCL looks for a toolkit if [`CUDA_PATH`] is not set.
const USUAL: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Folders of a toolkit among Python's packages: that of CUDA 13, and that of CUDA 12.
const PACKAGES: [&str; 2] =
    if cfg!(feature = "cuda") { ["nvidia/cu13", "nvidia/cuda_runtime"] } else { ["nvidia/cu13", "nvidia/cuda_nvcc"] };

/// Where this machine's toolkit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolkit {
    /// Where it is found.
    Found(PathBuf),
    /// Among the packages of a Python that this process runs beside: found once [`CUDA_PATH`] names it.
    InPython(PathBuf),
    /// [`CUDA_PATH`] names a folder that is none.
    WrongPath(PathBuf),
    /// Nowhere.
    Absent,
}

impl Toolkit {
    /// Looks for the toolkit.
    pub fn find() -> Self {
        Self::find_in(env::var_os(CUDA_PATH).map(PathBuf::from), &USUAL.map(PathBuf::from), pythons)
    }

    fn find_in(path: Option<PathBuf>, usual: &[PathBuf], pythons: impl FnOnce() -> Vec<PathBuf>) -> Self {
        let is_toolkit = |folder: &Path| folder.join(PIECE).is_file();
        match path {
            Some(path) if is_toolkit(&path) => return Self::Found(path),
            Some(path) => return Self::WrongPath(path),
            None => {}
        }
        if let Some(folder) = usual.iter().find(|folder| is_toolkit(folder)) {
            return Self::Found(folder.clone());
        }
        let packages = pythons().into_iter().flat_map(|python| package_folders(&python));
        let mut toolkits = packages.flat_map(|folder| PACKAGES.map(|package| folder.join(package)));
        toolkits.find(|folder| is_toolkit(folder)).map_or(Self::Absent, Self::InPython)
    }

    /// The folder of NVRTC, for the loader of libraries, where it is one of Python's packages.
    pub fn libraries(&self) -> Option<PathBuf> {
        let Self::InPython(folder) = self else { return None };
        if cfg!(not(feature = "cuda")) {
            return None;
        }
        let folders = [folder.join("lib"), folder.with_file_name("cuda_nvrtc").join("lib")];
        folders.into_iter().find(|folder| folder.is_dir())
    }

    /// What to do about it, if something has to be done.
    pub fn remedy(&self) -> Option<String> {
        let [of_13, of_12] = ON_PYPI;
        let install = format!("install NVIDIA's CUDA toolkit, or from PyPI `{of_13}` (CUDA 13) or `{of_12}` (CUDA 12)");
        match self {
            Self::Found(_) => None,
            Self::InPython(folder) => Some(match self.libraries() {
                None => format!("set {CUDA_PATH}={}", folder.display()),
                Some(libraries) => {
                    format!("set {CUDA_PATH}={} and {LIBRARY_PATH}={}", folder.display(), libraries.display())
                }
            }),
            Self::WrongPath(folder) => Some(format!(
                "{CUDA_PATH} is {}, where there is no {PIECE}: set it to a toolkit's folder, or {install}",
                folder.display()
            )),
            Self::Absent => {
                Some(format!("{PIECE} is neither in {} nor among Python's packages: {install}", USUAL.join(", ")))
            }
        }
    }
}

/// The prefixes of Pythons: of the environment that is active, of those on the path, and of the user.
fn pythons() -> Vec<PathBuf> {
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path)
        .filter(|folder| folder.join("python3").is_file())
        .filter_map(|folder| folder.parent().map(Path::to_owned))
        .collect::<Vec<_>>();
    let of_user = env::home_dir().map(|home| home.join(".local"));
    active.chain(on_path).chain(of_user).collect()
}

/// The folders of packages below a Python's prefix.
fn package_folders(prefix: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
    versions
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn with_piece(folder: &Path) {
        let file = folder.join(PIECE);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, []).expect("a file");
    }

    #[test]
    fn a_toolkit_is_found_or_what_to_do_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let [named, usual, python] = ["named", "usual", "python"].map(|name| folder.path().join(name));
        let find = |path: Option<&PathBuf>| {
            Toolkit::find_in(path.cloned(), std::slice::from_ref(&usual), || vec![python.clone()])
        };
        assert_eq!(find(None), Toolkit::Absent);
        assert!(find(None).remedy().expect("a remedy").contains(ON_PYPI[0]));

        let package = python.join("lib/python3.12/site-packages/nvidia/cu13");
        with_piece(&package);
        assert_eq!(find(None), Toolkit::InPython(package.clone()));
        assert_eq!(find(None).remedy(), Some(format!("set CUDA_PATH={}", package.display())));

        if cfg!(feature = "cuda") {
            fs::create_dir(package.join("lib")).expect("a folder");
            let remedy = find(None).remedy().expect("a remedy");
            assert!(remedy.ends_with(&format!("LD_LIBRARY_PATH={}", package.join("lib").display())), "{remedy}");
        }

        with_piece(&usual);
        assert_eq!(find(None), Toolkit::Found(usual.clone()));

        assert_eq!(find(Some(&named)), Toolkit::WrongPath(named.clone()), "nothing else is looked at then");
        with_piece(&named);
        assert_eq!(find(Some(&named)), Toolkit::Found(named.clone()));
        assert_eq!(find(Some(&named)).remedy(), None);
    }
}
