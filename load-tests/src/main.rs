//! The load test's place. The generator is not written yet: browser and aiortc tests are in `browser/` and `interop/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("load-tests: the generator is not written yet; ./test browser runs what is here");
    ExitCode::FAILURE
}
