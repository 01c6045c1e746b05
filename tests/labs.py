"""Of a notebook's code, what its lab needs: for tests that use the lab and not the rest."""

import ast
import symtable

import nbformat


def code_for_the_lab(path):
    """Statements down to the lab's, without those whose results the lab never sees."""
    code = ""
    for cell in nbformat.read(path, as_version=4).cells:
        code += cell.source + "\n" if cell.cell_type == "code" else ""
        if "lab = TrainingLab(" in code:
            return needed_for("lab", code)
    raise LookupError(f"{path.name} has no lab")


def needed_for(wanted, code):
    """Statements that a name needs, in their order."""
    kept, wanted = [], {wanted}
    for node in reversed(ast.parse(code).body):
        sets, reads = names(node)
        if sets & wanted:
            kept.append(node)
            wanted |= reads
    return ast.unparse(ast.Module(kept[::-1], []))


def names(node):
    """Names that a statement sets or changes, and those that it reads from outside of itself."""
    top = symtable.symtable(ast.unparse(node), "", "exec")
    found, inner = top.get_symbols(), [*top.get_children()]
    sets = {s.get_name() for s in found if s.is_assigned() or s.is_imported() or s.is_namespace()}
    reads = {s.get_name() for s in found if s.is_referenced()}
    for table in inner:
        reads |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        inner += table.get_children()
    touched = getattr(node, "iter" if isinstance(node, ast.For) else "value", None)
    if isinstance(node, ast.For | ast.Expr) and isinstance(touched, ast.Call):
        # table.fit(train), or: for table in tables.values(): table.fit(train)
        sets |= {getattr(getattr(touched.func, "value", None), "id", "")}
    return sets, reads
