"""Records in the Redis of the index."""

import json

from pydantic import JsonValue

from adapters.store.records import Record
from adapters.store.redis_scripts import RedisScripts, key_of


class RedisRecords:
    """`Records` in Redis; see `RedisIndex` about connections and durability."""

    def __init__(self, url: str) -> None:
        self._redis = RedisScripts(url)

    async def put(self, kind: str, name: str, document: dict[str, JsonValue] | None) -> int:
        """See `Records`."""
        place = json.dumps([kind, name])
        return int(await self._redis.script("put_record", place, json.dumps(document)))

    async def since(self, revision: int, *, limit: int) -> list[Record]:
        """See `Records`."""
        found = await self._redis.script("list_records", revision, limit)
        return [_record(*each) for each in found]

    async def newest(self) -> int:
        """See `Records`."""
        return int(await self._redis.command("GET", key_of("revision")) or 0)

    async def close(self) -> None:
        """See `Records`."""
        await self._redis.close()


def _record(place: str, document: str, revision: str) -> Record:
    kind, name = json.loads(place)
    return Record(kind=kind, name=name, document=json.loads(document), revision=int(revision))
