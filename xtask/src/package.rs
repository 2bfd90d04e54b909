//! The Debian package: `target/package/pgherd_VERSION_ARCH.deb`.
//!
//! What it is: files put below a folder as they shall be installed, and dpkg's own tools, which say what libraries the program
//! needs and pack it. What it is not: a Debian source package; there is no debhelper.
//! Invariant: nothing of it needs root, and in the package everything is root's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{setup, shell};

/// What dpkg runs when it installs and removes.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const UNITS: [&str; 2] = ["pgherd.service", "pgherd-postgresql.service"];
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/pgherd"),
    ("zsh", "usr/share/zsh/vendor-completions/_pgherd"),
    ("fish", "usr/share/fish/vendor_completions.d/pgherd.fish"),
];

/// `package [--debug] [--version V] [--out DIR]`.
pub fn package(arguments: &[String]) -> Result<()> {
    let (mut debug, mut version, mut out) =
        (false, format!("{}-1", env!("CARGO_PKG_VERSION")), shell::target_dir().join("package"));
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--debug" => debug = true,
            "--version" => version.clone_from(value()?),
            "--out" => out = PathBuf::from(value()?),
            other => bail!("cargo xtask package knows no {other}, only --debug, --version and --out"),
        }
    }
    setup::parser()?;
    let (program, profile) = match debug {
        true => ("debug/pgherd", ["build", "--locked", "--package", "pgherd"].as_slice()),
        false => ("release/pgherd", ["build", "--locked", "--package", "pgherd", "--release"].as_slice()),
    };
    shell::cargo(profile)?;
    let tree = Tree::new(&out)?;
    tree.fill(&shell::target_dir().join(program))?;
    let file = tree.pack(&out, &version, debug)?;
    fs::remove_dir_all(&tree.0).context("remove the folder that was packed")?;
    println!("{}", file.display());
    Ok(())
}

/// The folder that becomes the package.
struct Tree(PathBuf);

impl Tree {
    fn new(out: &Path) -> Result<Tree> {
        let root = std::path::absolute(out)?.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        }
        fs::create_dir_all(&root)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        Ok(Tree(root))
    }

    fn fill(&self, built: &Path) -> Result<()> {
        let program = self.place("usr/bin/pgherd")?;
        shell::run(Command::new("strip").arg("-o").arg(&program).arg(built))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        for unit in UNITS {
            let text = fs::read(Path::new("packaging").join(unit))?;
            self.write(&format!("usr/lib/systemd/system/{unit}"), text, 0o644)?;
        }
        let manual = self.0.join("usr/share/man/man1");
        shell::run(Command::new(built).args(["man", "--out"]).arg(&manual))?;
        shell::run(Command::new("gzip").args(["-9", "-n", "-r"]).arg(&manual))?;
        for (name, path) in COMPLETIONS {
            self.write(path, output(Command::new(built).args(["completions", name]))?, 0o644)?;
        }
        let doc = "usr/share/doc/pgherd";
        for example in fs::read_dir("packaging/examples")? {
            let example = example?;
            let name = example.file_name().to_string_lossy().into_owned();
            self.write(&format!("{doc}/examples/{name}"), fs::read(example.path())?, 0o644)?;
        }
        let licence = fs::read_to_string("LICENSE-MIT")?;
        let indented = licence.trim().lines().map(|line| match line.trim() {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        });
        let copyright = fs::read_to_string("packaging/debian/copyright")?;
        let copyright = copyright.replace("@MIT@\n", &indented.collect::<String>());
        self.write(&format!("{doc}/copyright"), copyright, 0o644)?;
        self.write(&format!("{doc}/changelog"), fs::read("CHANGELOG.md")?, 0o644)?;
        shell::run(Command::new("gzip").args(["-9", "-n"]).arg(self.0.join(doc).join("changelog")))
    }

    fn pack(&self, out: &Path, version: &str, debug: bool) -> Result<PathBuf> {
        let architecture = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
        let control = fs::read_to_string("packaging/debian/control.in")?
            .replace("@VERSION@", version)
            .replace("@ARCHITECTURE@", &architecture)
            .replace("@SIZE@", &self.kilobytes()?)
            .replace("@DEPENDS@", &self.libraries()?);
        self.write("DEBIAN/control", control, 0o644)?;
        for script in SCRIPTS {
            let text = fs::read(Path::new("packaging/debian").join(script))?;
            self.write(&format!("DEBIAN/{script}"), text, 0o755)?;
        }
        // Whatever the mask of whoever builds is.
        shell::run(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&self.0))?;
        let file = out.join(format!("pgherd_{version}_{architecture}.deb"));
        // A package for a test is unpacked once.
        let effort = if debug { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] };
        let mut pack = Command::new("dpkg-deb");
        shell::run(pack.args(effort).args(["--root-owner-group", "--build"]).args([&self.0, &file]))?;
        Ok(file)
    }

    /// The packages of the libraries that the program is linked with, as Debian writes dependencies.
    fn libraries(&self) -> Result<String> {
        // dpkg-shlibdeps wants to stand in a source package.
        let sources = self.0.with_file_name("sources");
        fs::create_dir_all(sources.join("debian"))?;
        fs::write(sources.join("debian/control"), "Source: pgherd\n\nPackage: pgherd\nArchitecture: any\n")?;
        let mut shlibdeps = Command::new("dpkg-shlibdeps");
        shlibdeps.current_dir(&sources).arg("-O").arg(self.0.join("usr/bin/pgherd"));
        let said = output(&mut shlibdeps)?;
        fs::remove_dir_all(&sources)?;
        let depends = said.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
        depends.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps names no libraries: \"{said}\""))
    }

    fn kilobytes(&self) -> Result<String> {
        let said = output(Command::new("du").args(["--summarize", "--block-size=1024"]).arg(&self.0))?;
        said.split_whitespace().next().map(str::to_owned).context("du names no size")
    }

    /// Where the file of this path goes; its folders are made.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let file = self.0.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(file)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let file = self.place(path)?;
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} failed: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
