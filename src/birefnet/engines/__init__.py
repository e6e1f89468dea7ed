"""Back ends behind one seam: normalised images in, alpha out."""
