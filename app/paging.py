"""Lists by keyset: `?limit=&after=`, newest first, `{object: "list", data, has_more, first_id, last_id}`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar, TypeVarTuple

from fastapi import Depends, Query
from sqlalchemy import Row, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import ApiError
from app.schemas import ResponseModel

DEFAULT_LIMIT = 20
MAX_LIMIT = 10_000
Item = TypeVar("Item")
Columns = TypeVarTuple("Columns")


class Page(ResponseModel, Generic[Item]):
    object: Literal["list"]
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    limit: int = DEFAULT_LIMIT
    after: str | None = None


def _page_query(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many objects at most.")] = DEFAULT_LIMIT,
    after: Annotated[str | None, Query(max_length=255, description="The last id of the page before.")] = None,
) -> PageQuery:
    return PageQuery(limit=limit, after=after)


PageDep = Annotated[PageQuery, Depends(_page_query)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[*Columns]):
    rows: Sequence[Row[*Columns]]
    has_more: bool


def list_rows(
    session: Session,
    statement: Select[*Columns],
    query: PageQuery,
    *,
    keys: Sequence[InstrumentedAttribute[Any]],
    id_column: InstrumentedAttribute[str],
    cursors: Select[Any] | None = None,
    ascending: bool = False,
) -> Rows[*Columns]:
    """One page of `statement`, ordered by `keys` (unique together), newest first unless `ascending`.

    `cursors` says which rows `after` may name; by default those of `statement`. Give a wider one (without the filter
    on deletion) where a caller may delete objects while paging. An `after` that names nothing is 422.
    """
    if query.after is not None:
        found = (statement if cursors is None else cursors).with_only_columns(*keys).where(id_column == query.after)
        place = session.execute(found).first()
        if place is None:
            raise ApiError(422, "invalid_cursor", f"after: nothing here has the id {query.after!r}.", param="after")
        here = tuple_(*keys)
        statement = statement.where(here > tuple_(*place) if ascending else here < tuple_(*place))
    order = [key.asc() if ascending else key.desc() for key in keys]
    rows = session.execute(statement.order_by(*order).limit(query.limit + 1)).all()
    return Rows(rows=rows[: query.limit], has_more=len(rows) > query.limit)


def to_page(
    found: Rows[*Columns], show: Callable[[Row[*Columns]], Item], *, id_of: Callable[[Item], str]
) -> Page[Item]:
    data = [show(row) for row in found.rows]
    return Page(
        object="list",
        data=data,
        has_more=found.has_more,
        first_id=id_of(data[0]) if data else None,
        last_id=id_of(data[-1]) if data else None,
    )
