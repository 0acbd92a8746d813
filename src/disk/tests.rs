//! The operating system's disk keeps to the words of the trait.

use super::*;
use crate::segments::tests::Dir;

#[test]
fn the_systems_disk_does_what_the_trait_says() {
    let dir = Dir::new();
    let folder = DiskFolder::from(dir.path()).join("a/b");
    folder.make().unwrap();
    folder.make().unwrap();
    let file = folder.create("one").unwrap();
    assert_eq!(folder.create("one").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(folder.open("two").unwrap_err().kind(), io::ErrorKind::NotFound);
    file.write_at(b"hello", 3).unwrap();
    file.sync().unwrap();
    let mut bytes = [9; 8];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes, file.len().unwrap()), (b"\0\0\0hello", 8));
    assert_eq!(file.read_at(&mut bytes, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    folder.create("two").unwrap();
    folder.rename("one", "two").unwrap();
    assert_eq!(folder.list().unwrap(), ["two"]);
    assert_eq!(folder.open("two").unwrap().len().unwrap(), 4);
    folder.remove("two").unwrap();
    assert_eq!(folder.remove("two").unwrap_err().kind(), io::ErrorKind::NotFound);
    // Who has it open reads on.
    assert_eq!(file.len().unwrap(), 4);
    folder.sync().unwrap();
    assert_eq!(folder.list().unwrap(), Vec::<String>::new());
    assert_eq!(folder.join("c").list().unwrap_err().kind(), io::ErrorKind::NotFound);
}
