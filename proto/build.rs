//! Compiles the contract without a system protoc. Messages with secrets get a `Debug` that hides them.

#![allow(clippy::disallowed_methods, reason = "the build's own directory")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

fn main() -> Result<(), Box<dyn Error>> {
    let subjects = [
        "options",
        "types",
        "enrolment",
        "assignment",
        "watch",
        "backups",
        "logs",
        "jobs",
        "databases",
        "users",
        "parameters",
        "diagnostics",
        "sizes",
    ];
    let files: Vec<String> = subjects.iter().map(|subject| format!("trove/agent/v1/{subject}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let (mut hidden, mut debug) = (Vec::new(), String::new());
    for message in compiler.descriptor_pool().all_messages() {
        if message.fields().any(|field| is_secret(&field)) {
            hidden.push(message.full_name().to_owned());
            write_debug(&mut debug, &message)?;
        }
    }
    std::fs::write(out.join("debug.rs"), debug)?;
    let builder = tonic_prost_build::configure().btree_map(".").skip_debug(&hidden);
    builder.compile_fds(compiler.file_descriptor_set())?;
    // As bytes: the parsed set above has no room for options of our own.
    let descriptors = compiler.include_source_info(false).encode_file_descriptor_set();
    DescriptorPool::decode(descriptors.as_slice())?;
    std::fs::write(out.join("descriptors.bin"), descriptors)?;
    Ok(())
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let pool = field.parent_pool();
    let Some(option) = pool.get_extension_by_name("trove.agent.v1.secret") else { return false };
    field.options().get_extension(&option).as_bool() == Some(true)
}

fn write_debug(code: &mut String, message: &MessageDescriptor) -> Result<(), Box<dyn Error>> {
    let name = message.name();
    write!(
        code,
        "impl std::fmt::Debug for v1::{name} {{\n    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{\n        out.debug_struct({name:?})"
    )?;
    for field in message.fields() {
        if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) {
            return Err(format!(
                "{}: a message with a secret has no oneof, or its Debug is to be taught that",
                field.full_name()
            )
            .into());
        }
        let field_name = field.name();
        let shown = if is_secret(&field) { "&secrets::HIDDEN".to_owned() } else { format!("&self.{field_name}") };
        write!(code, ".field({field_name:?}, {shown})")?;
    }
    code.push_str(".finish()\n    }\n}\n");
    Ok(())
}
