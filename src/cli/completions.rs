//! `completions` and `man`: what a package puts beside the program.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Command, CommandFactory};
use clap_complete::{Generator as _, Shell};
use clap_mangen::Man;

use super::{AFTER_HELP, Cli};

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Writes the completions of a shell to standard output.
#[must_use]
pub fn run(arguments: &CompletionsArguments) -> ExitCode {
    let mut command = Cli::command();
    command.set_bin_name(command.get_name().to_owned());
    command.build();
    let mut text = Vec::new();
    let generated = arguments.shell.try_generate(&command, &mut text);
    if arguments.shell == Shell::Bash {
        text = mend(&text, command.get_name());
    }
    report(generated.and_then(|()| write(&text)))
}

/// For a program with a hyphen in its name, the script for bash looks for a subcommand under one name and describes it under
/// another, so that nothing is completed after it. Here it is described under the name that is looked for.
///
/// Source: <https://github.com/clap-rs/clap/issues/6421>. Does nothing where that is mended.
fn mend(script: &[u8], name: &str) -> Vec<u8> {
    let (described, looked_for) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    String::from_utf8_lossy(script).replace(&described, &looked_for).into_bytes()
}

/// Writes the manual page to standard output: one page, a section for each subcommand.
#[must_use]
pub fn manual() -> ExitCode {
    let mut text = Vec::new();
    report(render(&mut text).and_then(|()| write(&text)))
}

fn render(text: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let page = Man::new(command.clone());
    page.render_title(text)?;
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    page.render_options_section(text)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        section(subcommand, text)?;
    }
    examples(text)?;
    page.render_version_section(text)
}

/// Line by line, as they were written: commands must not be filled like prose.
fn examples(text: &mut Vec<u8>) -> io::Result<()> {
    writeln!(text, ".SH EXAMPLES\n.nf")?;
    for line in AFTER_HELP.lines().skip(1) {
        writeln!(text, "{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
    }
    writeln!(text, ".fi")
}

fn section(subcommand: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(subcommand.clone());
    writeln!(text, ".SH {}", subcommand.get_name().to_uppercase())?;
    let mut parts = Vec::new();
    page.render_description_section(&mut parts)?;
    page.render_options_section(&mut parts)?;
    // What is a section in a page of its own is a part of one here.
    text.write_all(String::from_utf8_lossy(&parts).replace("\n.SH ", "\n.SS ").replacen(".SH ", ".SS ", 1).as_bytes())
}

fn write(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

fn report(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, `head` for example.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            super::report(&error);
            ExitCode::FAILURE
        }
    }
}
