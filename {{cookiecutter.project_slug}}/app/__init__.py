"""An AI application that answers questions over its own documents, with citations it has checked."""
