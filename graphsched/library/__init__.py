"""The public library of graphs made by hand: `graphsched.make_graph`, `plan`, `Plan`. docs/library.md shows it."""

from graphsched.library.graph_plan import Plan as Plan
from graphsched.library.graph_plan import make_graph as make_graph
from graphsched.library.graph_plan import plan as plan
from graphsched.library.times import Times as Times
