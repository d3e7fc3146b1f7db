//! The part of NVIDIA's toolkit that kernels for CUDA are linked with, and where it may be.
//!
//! The driver brings everything but libdevice, the implementation of `exp`, `tanh` and `erf`: it comes with the toolkit,
//! and with packages on PyPI.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The variable that names the toolkit's folder.
pub const CUDA_PATH: &str = "CUDA_PATH";

/// libdevice within a toolkit.
const LIBDEVICE: &str = "nvvm/libdevice/libdevice.10.bc";

/// Where CubeCL looks for a toolkit if [`CUDA_PATH`] is not set.
const USUAL: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Folders of a toolkit among Python's packages: that of CUDA 13, and that of CUDA 12.
const PACKAGES: [&str; 2] = ["nvidia/cu13", "nvidia/cuda_nvcc"];

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
        let is_toolkit = |folder: &Path| folder.join(LIBDEVICE).is_file();
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

    /// What to do about it, if something has to be done.
    pub fn remedy(&self) -> Option<String> {
        const INSTALL: &str = "install NVIDIA's CUDA toolkit, or from PyPI `nvidia-nvvm` (CUDA 13) or \
                               `nvidia-cuda-nvcc-cu12` (CUDA 12)";
        match self {
            Self::Found(_) => None,
            Self::InPython(folder) => Some(format!("set {CUDA_PATH}={}", folder.display())),
            Self::WrongPath(folder) => Some(format!(
                "{CUDA_PATH} is {}, where there is no {LIBDEVICE}: set it to a toolkit's folder, or {INSTALL}",
                folder.display()
            )),
            Self::Absent => {
                Some(format!("{LIBDEVICE} is neither in {} nor among Python's packages: {INSTALL}", USUAL.join(", ")))
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

    fn with_libdevice(folder: &Path) {
        let file = folder.join(LIBDEVICE);
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
        assert!(find(None).remedy().expect("a remedy").contains("nvidia-nvvm"));

        let package = python.join("lib/python3.12/site-packages/nvidia/cu13");
        with_libdevice(&package);
        assert_eq!(find(None), Toolkit::InPython(package.clone()));
        assert_eq!(find(None).remedy(), Some(format!("set CUDA_PATH={}", package.display())));

        with_libdevice(&usual);
        assert_eq!(find(None), Toolkit::Found(usual.clone()));

        assert_eq!(find(Some(&named)), Toolkit::WrongPath(named.clone()), "nothing else is looked at then");
        with_libdevice(&named);
        assert_eq!(find(Some(&named)), Toolkit::Found(named.clone()));
        assert_eq!(find(Some(&named)).remedy(), None);
    }
}
