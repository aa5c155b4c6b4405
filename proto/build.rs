//! Compiles the contract without a system protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subjects = [
        "types",
        "enrolment",
        "assignment",
        "watch",
        "jobs",
        "databases",
        "users",
        "parameters",
        "diagnostics",
        "sizes",
    ];
    let files: Vec<String> = subjects.iter().map(|subject| format!("trove/agent/v1/{subject}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    let descriptors = protox::compile(&files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
