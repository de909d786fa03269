"""The LRU map: by table, and against a list that is searched from the front."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.cache.lru import Evicted, LruMap
from service.errors import CacheFull, CacheTooSmall


def filled(capacity, **sizes):
    """A map whose values are the keys in upper case, put in this order."""
    lru = LruMap(capacity)
    for key, size in sizes.items():
        lru.put(key, key.upper(), size)
    return lru


def evicted_by(lru, key, size):
    """The keys that putting `key` drives out."""
    return [entry.key for entry in lru.put(key, key.upper(), size)]


def test_the_oldest_make_room():
    """Just as many go as are needed, the least recently used first."""
    lru = filled(10, a=3, b=3, c=3)
    assert lru.put("d", "D", 5) == [Evicted("a", "A", 3), Evicted("b", "B", 3)]
    assert (len(lru), lru.used_bytes) == (2, 8)
    assert "a" not in lru
    assert "c" in lru


@pytest.mark.parametrize("use", ["get", "pin and unpin"])
def test_a_used_entry_outlives_the_others(use):
    """Getting it, or giving it back, makes an entry the youngest."""
    lru = filled(9, a=3, b=3, c=3)
    if use == "get":
        assert lru.get("a") == "A"
    else:
        assert lru.pin("a") == "A"
        lru.unpin("a")
    assert evicted_by(lru, "d", 3) == ["b"]


def test_looking_is_not_using():
    """Asking whether a key is there leaves the order as it is."""
    lru = filled(9, a=3, b=3, c=3)
    assert "a" in lru
    assert evicted_by(lru, "d", 3) == ["a"]


def test_a_pinned_entry_stays():
    """It is passed over until the last of its pins is taken back."""
    lru = filled(9, a=3, b=3, c=3)
    lru.pin("a")
    lru.pin("a")
    assert evicted_by(lru, "d", 3) == ["b"]
    lru.unpin("a")
    assert lru.pinned_bytes == 3
    assert evicted_by(lru, "e", 6) == ["c", "d"]
    lru.unpin("a")
    assert lru.pinned_bytes == 0
    assert evicted_by(lru, "f", 3) == ["e"]
    assert evicted_by(lru, "g", 6) == ["a"]


def test_nothing_goes_where_it_would_not_help():
    """With too much pinned, the map is full and evicts nothing."""
    lru = filled(9, a=3, b=3, c=3)
    lru.pin("a")
    lru.pin("b")
    with pytest.raises(CacheFull, match="6 of 9 are in use"):
        lru.put("d", "D", 4)
    assert len(lru) == 3
    assert not lru.evicted_lately("c")


def test_an_entry_larger_than_the_map_is_named_as_such():
    """No waiting would help, so the error is another one."""
    with pytest.raises(CacheTooSmall, match="11 bytes can never fit into 10"):
        filled(10, a=3).put("b", "B", 11)


def test_entries_are_immutable():
    """A key that is there cannot be put again, and sizes are not negative."""
    lru = filled(10, a=3)
    with pytest.raises(ValueError, match="there already"):
        lru.put("a", "other", 1)
    with pytest.raises(ValueError, match="negative"):
        lru.put("b", "B", -1)
    assert lru.get("a") == "A"


def test_what_is_not_there_cannot_be_used():
    """Getting gives None; pinning, unpinning and removing raise."""
    lru = filled(10, a=3)
    assert lru.get("x") is None
    for operation in (lru.pin, lru.unpin, lru.remove):
        with pytest.raises(KeyError):
            operation("x")
    with pytest.raises(KeyError):
        lru.unpin("a")


def test_removing_takes_the_bytes_back():
    """An unpinned entry can be removed; a pinned one is refused."""
    lru = filled(10, a=3, b=4)
    assert lru.remove("a") == "A"
    assert lru.used_bytes == 4
    lru.pin("b")
    with pytest.raises(KeyError):
        lru.remove("b")
    assert lru.used_bytes == 4


def test_evicted_keys_are_remembered_for_a_while():
    """The latest few count as evicted lately, until they come back; removed ones do not."""
    lru = LruMap(1, ghosts=2)
    for key in "abcd":
        lru.put(key, key, 1)
    assert [lru.evicted_lately(key) for key in "abcd"] == [False, True, True, False]
    lru.put("b", "b", 1)
    assert [lru.evicted_lately(key) for key in "abcd"] == [False, False, True, True]
    lru.remove("b")
    assert not lru.evicted_lately("b")


KEYS = st.integers(0, 7)
CAPACITY = 20
GHOSTS = 3


class LruAgainstList(RuleBasedStateMachine):
    """The model: a list of [key, size, pins], least recently used first."""

    def __init__(self):
        super().__init__()
        self.lru = LruMap(CAPACITY, ghosts=GHOSTS)
        self.entries = []
        self.ghosts = []

    def find(self, key):
        return next((entry for entry in self.entries if entry[0] == key), None)

    def touch(self, entry):
        self.entries.remove(entry)
        self.entries.append(entry)

    @rule(key=KEYS, size=st.integers(0, CAPACITY))
    def put(self, key, size):
        """Evict from the front of the list what is not pinned until there is room."""
        if self.find(key):
            return
        pinned = sum(size for _, size, pins in self.entries if pins)
        if pinned + size > CAPACITY:
            with pytest.raises(CacheFull):
                self.lru.put(key, str(key), size)
            return
        gone = []
        while sum(entry[1] for entry in self.entries) + size > CAPACITY:
            gone.append(next(entry for entry in self.entries if not entry[2]))
            self.entries.remove(gone[-1])
        assert self.lru.put(key, str(key), size) == [Evicted(k, str(k), s) for k, s, _ in gone]
        self.entries.append([key, size, 0])
        self.ghosts = [*self.ghosts, *(k for k, _, _ in gone)][-GHOSTS:]
        self.ghosts = [ghost for ghost in self.ghosts if ghost != key]

    @rule(key=KEYS)
    def get(self, key):
        """Move to the end of the list."""
        entry = self.find(key)
        assert self.lru.get(key) == (str(key) if entry else None)
        if entry:
            self.touch(entry)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def pin(self, data):
        """Pin any entry once more."""
        entry = data.draw(st.sampled_from(self.entries))
        assert self.lru.pin(entry[0]) == str(entry[0])
        entry[2] += 1
        self.touch(entry)

    @precondition(lambda self: any(pins for _, _, pins in self.entries))
    @rule(data=st.data())
    def unpin(self, data):
        """Take back one pin of any pinned entry."""
        entry = data.draw(st.sampled_from([entry for entry in self.entries if entry[2]]))
        self.lru.unpin(entry[0])
        entry[2] -= 1
        self.touch(entry)

    @rule(key=KEYS)
    def remove(self, key):
        """Take an unpinned entry out of the list."""
        entry = self.find(key)
        if entry and not entry[2]:
            assert self.lru.remove(key) == str(key)
            self.entries.remove(entry)

    @invariant()
    def equal(self):
        """The same keys, bytes and ghosts, and never over capacity."""
        assert len(self.lru) == len(self.entries)
        assert all(key in self.lru for key, _, _ in self.entries)
        assert self.lru.used_bytes == sum(size for _, size, _ in self.entries) <= CAPACITY
        assert self.lru.pinned_bytes == sum(size for _, size, pins in self.entries if pins)
        assert [k for k in range(8) if self.lru.evicted_lately(k)] == sorted(self.ghosts)


TestLruAgainstList = LruAgainstList.TestCase
TestLruAgainstList.settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=40
)
