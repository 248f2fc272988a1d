//! The kernel's table of function names, appended to the flat image for the backtraces of panics.
//!
//! The profiler reads the same names ([`functions`]).
//!
//! The layout is described where it is read, in `kernel/src/symbols.rs`. The table begins where the kernel's memory ends
//! (`__kernel_end`), so the image is filled with zeros up to there: the kernel finds it without being linked a second time.

use goblin::elf::Elf;
use goblin::elf::section_header::SHN_ABS;
use goblin::elf::sym::{STT_FUNC, STT_NOTYPE};

const MAGIC: &[u8; 8] = b"DRPSYMS1";
const HEADER_BYTES: usize = 16;

/// Appends the table made from the linked kernel `elf` to its flat `image`. Without the symbols that the linker script
/// defines, the ELF is not a kernel and the reason is returned.
pub fn append(image: &mut Vec<u8>, elf: &Elf) -> Result<(), String> {
    let start = address(elf, "__kernel_start")?;
    let memory_bytes = usize::try_from(address(elf, "__kernel_end")? - start).map_err(|error| error.to_string())?;
    if image.len() > memory_bytes {
        return Err(format!("the image has {} bytes, its memory only {memory_bytes}", image.len()));
    }
    let functions = functions(elf)?;
    image.resize(memory_bytes, 0);
    image.extend(encode(functions));
    Ok(())
}

/// What the linker script calls `name`.
pub fn address(elf: &Elf, name: &str) -> Result<u64, String> {
    let found = elf.syms.iter().find(|symbol| elf.strtab.get_at(symbol.st_name) == Some(name));
    found.map(|symbol| symbol.st_value).ok_or_else(|| format!("the kernel has no symbol {name}"))
}

/// The functions of the linked kernel by their offset from its start. Of several names for one address the first in the
/// alphabet stays.
pub fn functions(elf: &Elf) -> Result<Vec<(u32, String)>, String> {
    let start = address(elf, "__kernel_start")?;
    let text = start..address(elf, "__text_end")?;
    let mut functions: Vec<(u32, String)> = Vec::new();
    // The linker script's constants have no section; one of them has the value of the start.
    let in_section = elf.syms.iter().filter(|symbol| symbol.st_shndx != SHN_ABS as usize);
    for symbol in in_section.filter(|symbol| text.contains(&symbol.st_value)) {
        let name = elf.strtab.get_at(symbol.st_name).unwrap_or("");
        // Labels of the assembly count; `$x` and `.L` are marks of the assembler.
        let wanted = matches!(symbol.st_type(), STT_FUNC | STT_NOTYPE) && !name.starts_with(['$', '.']);
        if wanted && !name.is_empty() {
            let offset = u32::try_from(symbol.st_value - start).map_err(|error| error.to_string())?;
            functions.push((offset, format!("{:#}", rustc_demangle::demangle(name))));
        }
    }
    Ok(sorted(functions))
}

fn sorted(mut functions: Vec<(u32, String)>) -> Vec<(u32, String)> {
    functions.sort();
    functions.dedup_by_key(|(offset, _)| *offset);
    functions
}

/// Lays sorted functions out.
fn encode(functions: Vec<(u32, String)>) -> Vec<u8> {
    let mut names = String::new();
    let mut name_offsets = Vec::with_capacity(functions.len() + 1);
    for (_, name) in &functions {
        name_offsets.push(names.len());
        names.push_str(name);
    }
    name_offsets.push(names.len());
    let total = HEADER_BYTES + functions.len() * 4 + name_offsets.len() * 4 + names.len();
    let mut table = Vec::with_capacity(total);
    let word = |value: usize| u32::try_from(value).expect("a kernel's names fit into 4 GiB").to_le_bytes();
    table.extend(MAGIC);
    table.extend(word(total));
    table.extend(word(functions.len()));
    table.extend(functions.iter().flat_map(|(offset, _)| offset.to_le_bytes()));
    table.extend(name_offsets.into_iter().flat_map(word));
    table.extend(names.bytes());
    table
}

#[cfg(test)]
mod tests {
    use super::{encode, sorted};

    #[test]
    fn symbols_are_sorted_and_an_address_has_one_name() {
        let table = encode(sorted(vec![(64, "middle".into()), (16, "start".into()), (64, "alias".into())]));
        let words: Vec<u32> = table[8..36].chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        assert_eq!(words, [46, 2, 16, 64, 0, 5, 10]);
        assert_eq!(&table[36..], b"startalias");
    }
}
